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

// Blocks whose scales are decoded together.
constexpr std::int64_t kGroupBlocks = 16;

// The scales of blocks k .. k + count - 1 of a row as floats; count <= kGroupBlocks, k a multiple
// of four: four scales lie together in every layout.
HWY_INLINE void load_scales(const DequantizeProblem& problem, std::int64_t row, std::int64_t k,
                            std::int64_t count, float* values) {
  const std::int64_t blocks = problem.x.columns / formats::block_elements(problem.format);
  const std::uint8_t* from = problem.scales + formats::scale_offset(problem.layout, row, k, blocks);
  std::uint8_t code[kGroupBlocks] = {};
  if (problem.layout == formats::ScaleLayout::kLinear) {
    std::memcpy(code, from, static_cast<std::size_t>(count));
  } else {
    const std::int64_t step = problem.layout == formats::ScaleLayout::k128x4 ? 512 : 32;
    for (std::int64_t i = 0; i < count; i += 4) std::memcpy(code + i, from + i / 4 * step, 4);
  }
  for (std::int64_t i = 0; i < kGroupBlocks; i += kLanes) {
    const Vi codes = load_bytes(code + i);
    hn::StoreU(problem.format == Format::kNvfp4 ? e4m3_values(codes) : e8m0_values(codes), Df(),
               values + i);
  }
}

// The row's decode scale; a NaN without payload (Element<T>::round_clean).
HWY_INLINE float row_decode(const DequantizeProblem& problem, std::int64_t row) {
  const float decode = problem.decode_scale(row);
  return numerics::is_nan(decode) ? numerics::bits_float(0x7FC00000u) : decode;
}

template <class T, bool kStream>
HWY_INLINE void store_row_pair(Pair pair, T* x, std::int64_t count) {
  if constexpr (kStream) {
    round_stream_pair(pair, x);
  } else {
    round_store_pair(pair, x, count);
  }
}

// kPairElems elements or, the last ones of a row, fewer.
template <class T, int kBlock, bool kStream>
HWY_INLINE void dequantize_pair(Vi bytes, const float* scales, Vf decode, T* x,
                                std::int64_t count) {
  const Vf scale = block_factors<kBlock>(scales);
  const auto of = [&](Vi code) HALFBYTE_INLINE_LAMBDA {
    return hn::Mul(hn::Mul(e2m1_values(code), scale), decode);
  };
  const Vi low = hn::And(bytes, hn::Set(Di(), 15));
  store_row_pair<T, kStream>({of(low), of(hn::ShiftRight<4>(bytes))}, x, count);
}

template <class T, int kBlock, bool kStream>
HWY_INLINE void dequantize_fp4_row(const DequantizeProblem& problem, std::int64_t row, T* x) {
  const std::int64_t columns = problem.x.columns, blocks = columns / kBlock;
  const std::uint8_t* codes = problem.codes + problem.code_rows.offset(row);
  const Vf decode = hn::Set(Df(), kBlock == formats::kNvfp4Block ? row_decode(problem, row) : 1.0f);
  // One more: block_factors reads a pair.
  float scales[kGroupBlocks + 1] = {};
  for (std::int64_t k = 0; k < blocks; k += kGroupBlocks) {
    const std::int64_t count = blocks - k < kGroupBlocks ? blocks - k : kGroupBlocks;
    load_scales(problem, row, k, count, scales);
    const std::int64_t first = k * kBlock, elems = count * kBlock;
    std::int64_t i = 0;
    for (; i + kPairElems <= elems; i += kPairElems) {
      dequantize_pair<T, kBlock, kStream>(load_bytes(codes + (first + i) / 2), scales + i / kBlock,
                                          decode, x + first + i, kPairElems);
    }
    if (i < elems) {
      std::uint8_t last[kLanes] = {};
      std::memcpy(last, codes + (first + i) / 2, static_cast<std::size_t>(elems - i) / 2);
      dequantize_pair<T, kBlock, false>(load_bytes(last), scales + i / kBlock, decode,
                                        x + first + i, elems - i);
    }
  }
}

template <class T>
HWY_INLINE void dequantize_fp8_row(const DequantizeProblem& problem, std::int64_t row, T* x) {
  const std::uint8_t* codes = problem.codes + problem.code_rows.offset(row);
  const Vf decode = hn::Set(Df(), row_decode(problem, row));
  const std::int64_t columns = problem.x.columns;
  const auto of = [&](const std::uint8_t* from, std::int64_t count) HALFBYTE_INLINE_LAMBDA -> Vf {
    std::uint8_t code[kLanes] = {};
    std::memcpy(code, from, static_cast<std::size_t>(count));
    return Element<T>::round_clean(hn::Mul(e4m3_values(load_bytes(code)), decode));
  };
  std::int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) store_elements(of(codes + i, kLanes), x + i, kLanes);
  if (i < columns) store_elements(of(codes + i, columns - i), x + i, columns - i);
}

template <class T, bool kStream>
HWY_INLINE void dequantize_rows(const DequantizeProblem& problem, std::int64_t begin,
                                std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    T* x = static_cast<T*>(problem.x.data) + problem.x.map.offset(row);
    if (problem.format == Format::kNvfp4) {
      dequantize_fp4_row<T, formats::kNvfp4Block, kStream>(problem, row, x);
    } else if (problem.format == Format::kMxfp4) {
      dequantize_fp4_row<T, formats::kMxfp4Block, kStream>(problem, row, x);
    } else {
      dequantize_fp8_row<T>(problem, row, x);
    }
  }
}

// Below simd::kStreamBytes, since dequantize writes four times what it reads: past the caches it
// took half the time on an Intel Xeon from here on, and the same time on an AMD EPYC.
constexpr std::int64_t kDequantizeStreamBytes = simd::kStreamBytes / 4;

// Whether every row starts at a whole vector, in a tensor that the caches will not hold.
template <class T>
HWY_INLINE bool streams(const Rows& x) {
  const auto is_aligned = [](std::int64_t bytes) {
    return bytes % static_cast<std::int64_t>(sizeof(Vf)) == 0;
  };
  constexpr auto kSize = static_cast<std::int64_t>(sizeof(T));
  return x.map.rows * x.columns * kSize >= kDequantizeStreamBytes &&
         is_aligned(reinterpret_cast<std::intptr_t>(x.data)) &&
         is_aligned(x.map.inner_stride * kSize) && is_aligned(x.map.outer_stride * kSize);
}

void dequantize_part(const void* context, std::int64_t begin, std::int64_t end,
                     simd::Scratch /*scratch*/) {
  const auto& problem = *static_cast<const DequantizeProblem*>(context);
  visit_float(problem.x.dtype, [&]<class T>(T) {
    if (streams<T>(problem.x)) {
      dequantize_rows<T, true>(problem, begin, end);
      hwy::FlushStream();
    } else {
      dequantize_rows<T, false>(problem, begin, end);
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
