// SIMD kernel of the room, compiled once a CPU level. A row is in cache from its first read to its
// last code:
//
//   x, residual -> h (fp32)  -> leaves -> tree -> rstd
//                  h, weight -> y (fp32 values of T) -> normed, amax, simd/row_quantizer.h
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/rmsnorm/rmsnorm_kernels.h"
#include "halfbyte/simd/row_quantizer.h"
#include "halfbyte/simd/row_sum.h"
#include "halfbyte/simd/threads.h"

namespace halfbyte::ops::HALFBYTE_LEVEL {
namespace {

using numerics::visit_float;
using namespace simd::HALFBYTE_LEVEL;  // NOLINT(google-build-using-namespace)

// What a thread keeps, in floats: h, w', the leaf sums, y.
struct RowScratch {
  float* h;
  float* weight;
  float* leaves;
  float* y;

  static HWY_INLINE std::int64_t floats(const NormProblem& problem) {
    const std::int64_t columns = problem.columns();
    return 3 * padded_row_elems(columns) + row_sum_scratch(columns);
  }
  HWY_INLINE RowScratch(const NormProblem& problem, float* memory)
      : h(memory),
        weight(h + padded_row_elems(problem.columns())),
        leaves(weight + padded_row_elems(problem.columns())),
        y(leaves + row_sum_scratch(problem.columns())) {}
};

HWY_INLINE void read_weight(const NormProblem& problem, float* weight) {
  const std::int64_t columns = problem.columns();
  visit_float(problem.weight_dtype, [&]<class W>(W) {
    const W* w = static_cast<const W*>(problem.weight);
    for (std::int64_t i = 0; i < columns; i += kLanes) {
      Vf value = load_elements(w + i, columns - i);
      if (problem.weight_bias) value = hn::Add(value, hn::Set(Df(), 1.0f));
      hn::StoreU(value, Df(), weight + i);
    }
  });
}

template <class T>
HWY_INLINE T* row_of(const Rows& rows, std::int64_t row) {
  return static_cast<T*>(rows.data) + rows.map.offset(row);
}

// h of one row, zero up to whole leaves; updates the residual.
template <class T>
HWY_INLINE void read_row(const NormProblem& problem, std::int64_t row, float* h) {
  const std::int64_t columns = problem.columns();
  const T* x = row_of<T>(problem.x, row);
  T* residual = problem.residual ? row_of<T>(problem.residual, row) : nullptr;
  for (std::int64_t i = 0; i < columns; i += kLanes) {
    Vf value = load_elements(x + i, columns - i);
    if (residual != nullptr) {
      value = Element<T>::round(hn::Add(value, load_elements(residual + i, columns - i)));
      store_elements(value, residual + i, columns - i);
    }
    hn::StoreU(value, Df(), h + i);
  }
  for (std::int64_t i = (columns + kLanes - 1) / kLanes * kLanes; i < padded_row_elems(columns);
       i += kLanes) {
    hn::StoreU(hn::Zero(Df()), Df(), h + i);
  }
}

// y. Returns the bits of its amax where they are wanted.
template <class T>
HWY_INLINE std::uint32_t normalise(const NormProblem& problem, float rstd, const float* weight,
                                   const float* h, T* y) {
  const std::int64_t columns = problem.columns();
  const bool huggingface = problem.rounding == Rounding::kHuggingFace;
  const Vf scale = hn::Set(Df(), rstd);
  for (std::int64_t i = 0; i < columns; i += kLanes) {
    Vf value = hn::Mul(hn::LoadU(Df(), h + i), scale);
    if (huggingface) value = Element<T>::round(value);
    value = Element<T>::round(hn::Mul(value, hn::LoadU(Df(), weight + i)));
    store_elements(value, y + i, columns - i);
  }
  return problem.amax != nullptr ? amax_bits(y, columns) : 0;
}

struct Context {
  const NormProblem& problem;
  std::uint32_t* most;  // bits of the tensor's amax, shared by the threads
};

void part(const void* context, std::int64_t begin, std::int64_t end, simd::Scratch memory) {
  const NormProblem& problem = static_cast<const Context*>(context)->problem;
  const RowScratch scratch(problem, reinterpret_cast<float*>(memory.data));
  const formats::RowTarget nothing;
  const bool quantizes = problem.target != nullptr;
  const RowQuantizer quantizer(quantizes ? *problem.target : nothing);
  read_weight(problem, scratch.weight);
  std::uint32_t part_most = 0;
  visit_float(problem.x.dtype, [&]<class T>(T) {
    for (std::int64_t row = begin; row < end; ++row) {
      if (row < problem.rows()) {
        read_row<T>(problem, row, scratch.h);
        const float rstd =
            rmsnorm_rstd(sum_of_squares(scratch.h, problem.columns(), scratch.leaves),
                         problem.columns(), problem.eps);
        T* y = problem.y ? row_of<T>(problem.y, row) : reinterpret_cast<T*>(scratch.y);
        const std::uint32_t bits = normalise<T>(problem, rstd, scratch.weight, scratch.h, y);
        part_most = bits > part_most ? bits : part_most;
        if (quantizes) quantizer.quantize(row, y);
      }
      if (quantizes) problem.target->pad_row(row);
    }
  });
  if (problem.amax != nullptr)
    simd::atomic_max(static_cast<const Context*>(context)->most, part_most);
}

}  // namespace

void rmsnorm_rows(const NormProblem& problem, int num_threads) {
  std::uint32_t most = 0;
  const Context context{problem, &most};
  const std::int64_t rows =
      problem.target != nullptr ? problem.target->padded_rows() : problem.rows();
  simd::parallel_rows(rows, problem.columns(), num_threads,
                      static_cast<std::size_t>(RowScratch::floats(problem)) * sizeof(float), part,
                      &context);
  if (problem.amax != nullptr) *problem.amax = numerics::bits_float(most);
}

}  // namespace halfbyte::ops::HALFBYTE_LEVEL
