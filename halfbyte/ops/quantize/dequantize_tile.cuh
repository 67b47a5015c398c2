// Dequantization eight elements a thread, neighbouring threads neighbouring bytes: rows of eight
// columns' multiple, every address aligned. quantize_cuda.cuh has the kernel for all other rows.
//
//   4 or 8 bytes of codes, a block scale -> e2m1 as fp16 -> fp32 -> * scale -> * d -> 16 or 32
//   bytes
#pragma once

#include "halfbyte/ops/quantize/quantize_kernels.h"
#include "halfbyte/simt/tile_launch.cuh"

namespace halfbyte::ops::cuda {

inline constexpr int kDequantizeElems = 8, kDequantizeThreads = 256, kDequantizePieces = 4;

struct DequantizeTileArgs {
  const std::uint8_t* codes;
  std::uint32_t code_stride;  // bytes, as x_stride
  std::uint32_t x_stride;
  void* x;
  simt::TileScales scales;
  formats::ScaleKind scale_kind;
  std::uint32_t scale_stride;
  const float* scale;
  float scale_value;
  std::uint32_t rows, pieces;  // of a row, eight elements each
  bool programmatic;

  __device__ __forceinline__ float decode_scale(std::uint32_t row) const {
    const float value = scale != nullptr ? scale[std::uint64_t{row} * scale_stride] : scale_value;
    return scale_kind == formats::ScaleKind::kEncode ? numerics::div_rn(1.0f, value) : value;
  }
};

// The values of eight codes. The bits of E2M1 are the lower exponent bits and the highest
// significand bit of fp16, subnormals included, but for 2^14.
__device__ __forceinline__ void e2m1_values(std::uint32_t codes, float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // elements i and i + 4
    const std::uint32_t pair = codes >> (4 * i);
    const std::uint32_t halves = ((pair & 0x00070007u) << 9) | ((pair & 0x00080008u) << 12);
    asm("{\n\t.reg .b32 scaled;\n\t.reg .f16 low, high;\n\tmul.rn.f16x2 scaled, %2, %3;\n\t"
        "mov.b32 {low, high}, scaled;\n\tcvt.f32.f16 %0, low;\n\tcvt.f32.f16 %1, high;\n\t}"
        : "=f"(values[i]), "=f"(values[i + 4])
        : "r"(halves), "r"(0x74007400u));  // 2^14
  }
}

template <class T>
__device__ __forceinline__ void store_eight(const float (&values)[8], T* to) {
  std::uint32_t words[2 * sizeof(T)];
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = simt::round_pair(T(), values[2 * i], values[2 * i + 1]);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) words[i] = numerics::float_bits(values[i]);
  }
#pragma unroll
  for (int i = 0; i < static_cast<int>(2 * sizeof(T)); i += 4) {
    __stcs(reinterpret_cast<uint4*>(to) + i / 4,
           make_uint4(words[i], words[i + 1], words[i + 2], words[i + 3]));
  }
}

// blockDim: pieces of a row x rows. A thread has kDequantizePieces in flight, blockDim.x apart:
// what a CTA writes is together.
template <class T, formats::Format F>
__global__ void __launch_bounds__(kDequantizeThreads)
    dequantize_tile_kernel(const __grid_constant__ DequantizeTileArgs args) {
  using formats::Format;
  constexpr std::uint32_t kBlockPieces = F == Format::kMxfp4 ? 4 : 2;
  simt::wait_for_previous_kernel(args.programmatic);
  const std::uint32_t first = blockIdx.y * blockDim.x * kDequantizePieces + threadIdx.x;
  const std::uint32_t row = blockIdx.x * blockDim.y + threadIdx.y;
  if (row < args.rows) {
    const std::uint8_t* from = simt::tile_address(args.codes, row, args.code_stride);
    T* to = simt::tile_address(static_cast<T*>(args.x), row, args.x_stride);
    uint2 codes[kDequantizePieces];
    std::uint8_t scales[kDequantizePieces];
#pragma unroll
    for (std::uint32_t i = 0; i < kDequantizePieces; ++i) {
      const std::uint32_t piece = first + i * blockDim.x;
      if (piece >= args.pieces) break;
      if constexpr (F == Format::kFp8) {
        codes[i] = reinterpret_cast<const uint2*>(from)[piece];
      } else {
        codes[i].x = reinterpret_cast<const std::uint32_t*>(from)[piece];
        scales[i] = args.scales.data[args.scales.row_offset(row) +
                                     args.scales.column_offset(piece / kBlockPieces)];
      }
    }
    const float decode = args.decode_scale(row);
#pragma unroll
    for (std::uint32_t i = 0; i < kDequantizePieces; ++i) {
      const std::uint32_t piece = first + i * blockDim.x;
      if (piece >= args.pieces) break;
      float values[kDequantizeElems];
      if constexpr (F == Format::kFp8) {
#pragma unroll
        for (int k = 0; k < kDequantizeElems; ++k) {
          const std::uint32_t word = k < 4 ? codes[i].x : codes[i].y;
          values[k] = numerics::mul_rn(simt::e4m3_value((word >> (k % 4 * 8)) & 0xFFu), decode);
        }
      } else {
        e2m1_values(codes[i].x, values);
        const float scale =
            F == Format::kNvfp4 ? simt::e4m3_value(scales[i]) : formats::e8m0_to_float(scales[i]);
#pragma unroll
        for (int k = 0; k < kDequantizeElems; ++k) {
          values[k] = numerics::mul_rn(values[k], scale);
          if constexpr (F == Format::kNvfp4) values[k] = numerics::mul_rn(values[k], decode);
        }
      }
      store_eight(values, to + piece * kDequantizeElems);
    }
  }
  simt::release_next_kernel(args.programmatic);
}

inline bool takes_dequantize_tiles(const DequantizeProblem& problem) {
  const bool fp8 = problem.format == formats::Format::kFp8;
  return problem.x.columns % 16 == 0 && problem.x.map.rows < std::int64_t{1} << 31 &&
         problem.x.columns < std::int64_t{65535} * 256 &&
         simt::takes_tiles(problem.x.data, problem.x.map, base::dtype_bytes(problem.x.dtype)) &&
         simt::takes_tiles(problem.codes, problem.code_rows, 1, fp8 ? 8 : 4);
}

template <class T>
base::Status launch_dequantize_tiles(const DequantizeProblem& problem,
                                     const simt::LaunchOptions& options) {
  DequantizeTileArgs args = {};
  args.codes = problem.codes;
  args.code_stride = static_cast<std::uint32_t>(problem.code_rows.inner_stride);
  args.x = problem.x.data;
  args.x_stride = simt::stride_bytes(problem.x.map, sizeof(T));
  if (problem.format != formats::Format::kFp8) {
    args.scales = simt::tile_scales({const_cast<std::uint8_t*>(problem.scales), problem.layout},
                                    problem.x.columns / formats::block_elements(problem.format));
  }
  args.scale_kind = problem.scale_kind;
  args.scale_stride = static_cast<std::uint32_t>(problem.scale_stride);
  args.scale = problem.scale;
  args.scale_value = problem.scale_value;
  args.rows = static_cast<std::uint32_t>(problem.x.map.rows);
  args.pieces = static_cast<std::uint32_t>(problem.x.columns / kDequantizeElems);
  args.programmatic = options.programmatic;
  if (args.rows == 0) return {};
  std::uint32_t x = 32;
  while (x < kDequantizeThreads && x * kDequantizePieces < args.pieces) x *= 2;
  const dim3 block(x, kDequantizeThreads / x);
  const std::uint32_t pieces_a_cta = x * kDequantizePieces;
  const dim3 grid((args.rows + block.y - 1) / block.y,
                  (args.pieces + pieces_a_cta - 1) / pieces_a_cta);
  return simt::visit_format(problem.format, [&](auto format) {
    return simt::launch<dequantize_tile_kernel<T, decltype(format)::value>>(
        "dequantize_tile_kernel", grid, block, options, args);
  });
}

}  // namespace halfbyte::ops::cuda
