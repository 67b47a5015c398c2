// The reference: naive loops over rope_math.h, in row order, on one thread.
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/rope/rope_kernels.h"

namespace halfbyte::ops::reference {
namespace {

template <class T>
T* head_of(const RopeRows& rows, std::int64_t token, std::int64_t head) {
  return static_cast<T*>(rows.data) + token * rows.token_stride + head * rows.head_stride;
}

template <class T>
void rotate_head(const RopeProblem& problem, const T* x, const float* cos, const float* sin, T* y) {
  const std::int64_t begin = problem.rope_offset, end = begin + problem.rope_dim;
  for (std::int64_t k = 0; k < problem.head_dim && !problem.in_place; ++k) {
    if (k < begin || k >= end) y[k] = x[k];
  }
  for (std::int64_t pair = 0; pair < problem.rope_dim / 2; ++pair) {
    const std::int64_t a = begin + rope_first(problem.style, pair);
    const std::int64_t b = begin + rope_second(problem.style, pair, problem.rope_dim);
    const RopePair<T> rotated = rope_rotate<T>(numerics::to_float(x[a]), numerics::to_float(x[b]),
                                               cos[pair], sin[pair], problem.inverse);
    y[a] = rotated.a;
    y[b] = rotated.b;
  }
}

}  // namespace

void rope(const RopeProblem& problem, int /*num_threads*/) {
  numerics::visit_float(problem.dtype, [&]<class T>(T) {
    for (std::int64_t token = 0; token < problem.tokens; ++token) {
      const std::int64_t position = problem.position(token);
      for (std::int64_t head = 0; head < problem.heads; ++head) {
        rotate_head<T>(problem, head_of<T>(problem.x, token, head),
                       problem.cos + position * problem.cos_stride,
                       problem.sin + position * problem.sin_stride,
                       head_of<T>(problem.y, token, head));
      }
    }
  });
}

}  // namespace halfbyte::ops::reference
