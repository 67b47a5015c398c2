// The stream kernel with SiLU * mul and NVFP4 quantization behind it: gate_up never goes to memory.
//
// A CTA has tiles of 16 rows of gate, then those of the same rows of up, so that a block of y is
// whole in it. Half a warp has a block: an element a lane, rounded as gemm, silu_mul and quantize
// round.
#pragma once

#include "halfbyte/ops/gemm/gemm_cuda_stream_simple.cuh"
#include "halfbyte/ops/gemm/gemm_silu_mul_kernels.h"

namespace halfbyte::ops::cuda {

// stream.problem is the product, its plan counts pairs of tiles in block_tiles and more_tiles.
struct GateUpStreamArgs {
  StreamArgs stream;
  SiluMulRule rule;
  formats::RowTarget target;
};

#if __CUDA_ARCH__ >= 800

template <class T>
__device__ __forceinline__ float silu_mul_value(float gate, float up, const SiluMulRule& rule) {
  return numerics::to_float(silu_mul_apply<T>(numerics::to_float(numerics::round_to<T>(gate)),
                                              numerics::to_float(numerics::round_to<T>(up)), rule));
}

// Element `element` of block k of row m of y, a lane each of half a warp, all of which call.
__device__ __forceinline__ void put_block(const formats::RowTarget& target,
                                          const formats::Nvfp4Scale& scale, int m, int k,
                                          int element, float y) {
  const unsigned lanes = 0xFFFFu << (threadIdx.x & 16u);
  std::uint32_t most = numerics::abs_bits(y);
#pragma unroll
  for (int step = 8; step > 0; step /= 2) {
    most = max(most, __shfl_xor_sync(lanes, most, step, formats::kNvfp4Block));
  }
  const std::uint8_t block_scale =
      formats::nvfp4_block_scale(numerics::bits_float(most), scale, target.scale_rule);
  const std::uint32_t code =
      formats::nvfp4_encode(y, formats::nvfp4_reciprocal(block_scale, scale));
  const std::uint32_t next = __shfl_down_sync(lanes, code, 1, formats::kNvfp4Block);
  if (element % 2 == 0) {
    target.codes[target.code_rows.offset(m) + k * (formats::kNvfp4Block / 2) + element / 2] =
        static_cast<std::uint8_t>(code | next << 4);
  }
  if (element == 0) target.put_scale(m, k, block_scale);
}

#endif  // __CUDA_ARCH__

template <StreamKind kKind, int kShared>
__global__ void __launch_bounds__(kStreamThreads, 1)
    gate_up_stream_kernel(const __grid_constant__ GateUpStreamArgs args) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::uint8_t smem[];
  const StreamPlan& plan = args.stream.plan;
  const GemmProblem& product = args.stream.problem;
  const formats::RowTarget& target = args.target;
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const StreamChunk chunk{0, plan.chunk_rows, 0, 0, true};
  auto* rows = reinterpret_cast<StreamRow*>(smem + plan.header_offset);
  const int first_pair = block * plan.block_tiles + min(block, plan.more_tiles);
  const bool more = block < plan.more_tiles;
  const int pairs = plan.block_tiles + (more ? 1 : 0);
  const StreamTail tail = more ? plan.tails[1] : plan.tails[0];
  StreamScales scales;
  multiply_simple<kKind, 1, kShared, false>(
      args.stream, smem, {first_pair, 2 * pairs, pairs, plan.tiles / 2 - pairs}, tail, scales);
  put_rows<kKind>(args.stream, chunk, scales, rows);
  const float encode = target.given != nullptr ? *target.given : target.given_value;
  __syncthreads();
  let_kernel_after_start();

  const float decode_b = StreamScales::decode(scales.b, product.b_scale.kind);
  const formats::Nvfp4Scale scale = formats::nvfp4_scale_given(encode);
  const int columns = static_cast<int>(target.columns);
#pragma unroll 1
  for (SimpleElement at(plan); at.tile < pairs; at.next(chunk.rows)) {
    const int pair = at.tile, m = at.m, row = at.row;
    const int k = first_pair + pair, n = k * kTileRows + row;
    float values[2];
#pragma unroll 1
    for (int up = 0; up < 2; ++up) {
      const float v = scaled_sum<kKind>(
          product, 0, n + up * columns,
          simple_sum<kShared, false>(args.stream, smem, tail, pair + up * pairs, m, row),
          rows[m].decode, decode_b);
      values[1] = v;
      if (up == 0) values[0] = v;
    }
    const float y = product.c_dtype == base::DType::kBF16
                        ? silu_mul_value<numerics::Bf16>(values[0], values[1], args.rule)
                    : product.c_dtype == base::DType::kF16
                        ? silu_mul_value<numerics::Fp16>(values[0], values[1], args.rule)
                        : silu_mul_value<float>(values[0], values[1], args.rule);
    put_block(target, scale, m, k, row, y);
  }
#pragma unroll 1
  for (std::int64_t row = block; row < target.padded_rows(); row += gridDim.x) {
    target.pad_row(row, thread, kStreamThreads);
  }
#endif
}

template <StreamKind kKind>
void (*gate_up_instance(const StreamPlan& plan))(GateUpStreamArgs) {
  if constexpr (is_nvfp4(kKind)) {
    switch (stream_shared_slices(Format::kNvfp4, plan.chunk_rows)) {
      case 8:
        return gate_up_stream_kernel<kKind, 8>;
      case 4:
        return gate_up_stream_kernel<kKind, 4>;
      case 2:
        return gate_up_stream_kernel<kKind, 2>;
      default:
        break;
    }
  }
  return gate_up_stream_kernel<kKind, 1>;
}

}  // namespace halfbyte::ops::cuda
