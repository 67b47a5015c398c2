// SIMD kernels of the room, compiled once a CPU level: rows over threads; quantize is
// simd/row_quantizer.h on rows as they are.
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/quantize/quantize_kernels.h"
#include "halfbyte/simd/row_quantizer.h"
#include "halfbyte/simd/threads.h"

namespace halfbyte::ops::HALFBYTE_LEVEL {
namespace {

using formats::Format;
using formats::RowTarget;
using numerics::visit_float;
using namespace simd::HALFBYTE_LEVEL;  // NOLINT(google-build-using-namespace)

struct QuantizeContext {
  const Rows& x;
  const RowTarget& target;
};

void quantize_part(const void* context, std::int64_t begin, std::int64_t end,
                   simd::Scratch /*scratch*/) {
  const Rows& x = static_cast<const QuantizeContext*>(context)->x;
  const RowTarget& target = static_cast<const QuantizeContext*>(context)->target;
  const RowQuantizer quantizer(target);
  visit_float(x.dtype, [&]<class T>(T) {
    for (std::int64_t row = begin; row < end; ++row) {
      if (row < target.rows) {
        quantizer.quantize(row, static_cast<const T*>(x.data) + x.map.offset(row));
      }
      target.pad_row(row);
    }
  });
}

void quantize(const Rows& x, const RowTarget& target, int num_threads) {
  const QuantizeContext context{x, target};
  simd::parallel_rows(target.padded_rows(), x.columns, num_threads, 0, quantize_part, &context);
}

// The values of `count` codes, without their scale.
HWY_INLINE void decode_fp4(const std::uint8_t* codes, std::int64_t count, float* values) {
  for (std::int64_t i = 0; i < count; ++i) {
    values[i] = formats::e2m1_to_float(formats::e2m1_unpack(codes[i / 2], static_cast<int>(i % 2)));
  }
}

template <class T>
HWY_INLINE void dequantize_fp4_row(const DequantizeProblem& problem, std::int64_t row, T* x) {
  const int block = formats::block_elements(problem.format);
  const std::int64_t blocks = problem.x.columns / block;
  const std::uint8_t* codes = problem.codes + problem.code_rows.offset(row);
  const bool nvfp4 = problem.format == Format::kNvfp4;
  const Vf decode = hn::Set(Df(), nvfp4 ? problem.decode_scale(row) : 1.0f);
  float values[formats::kMxfp4Block];
  for (std::int64_t k = 0; k < blocks; ++k) {
    const std::uint8_t code = problem.scales[formats::scale_offset(problem.layout, row, k, blocks)];
    const Vf scale =
        hn::Set(Df(), nvfp4 ? formats::e4m3_to_float(code) : formats::e8m0_to_float(code));
    decode_fp4(codes + k * (block / 2), block, values);
    for (int i = 0; i < block; i += static_cast<int>(kLanes)) {
      Vf value = hn::Mul(hn::LoadU(Df(), values + i), scale);
      if (nvfp4) value = hn::Mul(value, decode);
      store_elements(Element<T>::round(value), x + k * block + i, kLanes);
    }
  }
}

template <class T>
HWY_INLINE void dequantize_fp8_row(const DequantizeProblem& problem, std::int64_t row, T* x) {
  const std::uint8_t* codes = problem.codes + problem.code_rows.offset(row);
  const float decode = problem.decode_scale(row);
  for (std::int64_t k = 0; k < problem.x.columns; ++k) {
    x[k] = numerics::round_to<T>(formats::fp8_decode(codes[k], decode));
  }
}

void dequantize_part(const void* context, std::int64_t begin, std::int64_t end,
                     simd::Scratch /*scratch*/) {
  const auto& problem = *static_cast<const DequantizeProblem*>(context);
  visit_float(problem.x.dtype, [&]<class T>(T) {
    for (std::int64_t row = begin; row < end; ++row) {
      T* x = static_cast<T*>(problem.x.data) + problem.x.map.offset(row);
      if (problem.format == Format::kFp8) {
        dequantize_fp8_row(problem, row, x);
      } else {
        dequantize_fp4_row(problem, row, x);
      }
    }
  });
}

void dequantize(const DequantizeProblem& problem, int num_threads) {
  simd::parallel_rows(problem.x.map.rows, problem.x.columns, num_threads, 0, dequantize_part,
                      &problem);
}

struct AmaxContext {
  const Rows& x;
  bool per_row;
  float* amax;          // per row
  std::uint32_t* most;  // of the tensor, shared by the threads
};

void amax_part(const void* context, std::int64_t begin, std::int64_t end,
               simd::Scratch /*scratch*/) {
  const AmaxContext& call = *static_cast<const AmaxContext*>(context);
  const Rows& x = call.x;
  std::uint32_t part = 0;
  visit_float(x.dtype, [&]<class T>(T) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* values = static_cast<const T*>(x.data) + x.map.offset(row);
      const std::uint32_t bits = amax_bits(values, x.columns);
      if (call.per_row) call.amax[row] = numerics::bits_float(bits);
      part = bits > part ? bits : part;
    }
  });
  simd::atomic_max(call.most, part);
}

void amax(const Rows& x, bool per_row, float* amax, int num_threads) {
  std::uint32_t most = 0;
  const AmaxContext context{x, per_row, amax, &most};
  simd::parallel_rows(x.map.rows, x.columns, num_threads, 0, amax_part, &context);
  if (!per_row) amax[0] = numerics::bits_float(most);
}

}  // namespace

const QuantizeKernels kQuantizeKernels = {quantize, dequantize, amax};

}  // namespace halfbyte::ops::HALFBYTE_LEVEL
