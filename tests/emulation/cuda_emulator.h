// A CUDA block on the CPU, for tests of kernels where there is no GPU: a fiber a thread, which runs
// until it waits at a barrier, a shuffle or a product of its warp. What it shows are indices,
// barriers that are missing or not met by all, and arithmetic; not races within a warp's steps, and
// nothing that the compiler does. Stands for <cuda_runtime.h> and <cuda_fp16.h>.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__

struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace halfbyte::emulation {

struct Index {
  unsigned x = 0;
};
extern Index thread, block, grid;
inline int warp() { return static_cast<int>(thread.x / 32); }
inline int lane() { return static_cast<int>(thread.x % 32); }

// Runs `kernel` for every block of the grid, one after the other, `threads` fibers each.
void launch(int blocks, int threads, const std::function<void()>& kernel);

void sync_block();
// mask: a warp's lanes, or one of its halves.
void sync_lanes(unsigned mask);
// What lane `from` of this warp gave; bytes at most 32.
void exchange(unsigned mask, const void* mine, void* theirs, std::size_t bytes, int from);

template <class T>
T shuffle(unsigned mask, T value, int from) {
  T theirs;
  exchange(mask, &value, &theirs, sizeof(T), from);
  return theirs;
}

// Shared memory. Every access is checked: an error ends the program with what it was.
extern std::uint8_t shared_memory[256 * 1024];
void set_shared_bytes(std::uint32_t bytes);
std::uint8_t* shared_at(std::uint32_t at, std::uint32_t bytes);
std::uint32_t shared_offset(const void* p);

// Asynchronous copies of 16 bytes, which land when their group is waited for, not before. They read
// within what is readable alone: `bytes` from `begin` on, of each.
struct Readable {
  const void* begin;
  std::size_t bytes;
};
void set_readable(std::vector<Readable> all);
void copy_async(std::uint32_t to, const void* from);
void commit_copies();
void wait_copies(int pending);

// fp16 as bits.
float half_value(std::uint32_t bits);
std::uint32_t half_pair(float low, float high);
std::uint32_t times(std::uint32_t a, std::uint32_t b);
// prmt.b32.
std::uint32_t permute_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t selector);
// mma.m16n8k16 of fp16, exact before one rounding to fp32.
float4 product(const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, float4 c);

// An operation rounded by itself, whatever the flags.
inline float rounded(float value) {
  volatile float kept = value;
  return kept;
}

}  // namespace halfbyte::emulation

#define threadIdx (::halfbyte::emulation::thread)
#define blockIdx (::halfbyte::emulation::block)
#define gridDim (::halfbyte::emulation::grid)

inline void __syncthreads() { halfbyte::emulation::sync_block(); }
inline void __syncwarp() { halfbyte::emulation::sync_lanes(0xFFFFFFFFu); }
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int = 32) {
  return halfbyte::emulation::shuffle(mask, value, halfbyte::emulation::lane() ^ with);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int by, int width = 32) {
  const int lane = halfbyte::emulation::lane();
  return halfbyte::emulation::shuffle(mask, value, lane % width + by < width ? lane + by : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int by) {
  const int lane = halfbyte::emulation::lane();
  return halfbyte::emulation::shuffle(mask, value, lane >= by ? lane - by : lane);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
  return halfbyte::emulation::shuffle(mask, value, from);
}
inline bool __any_sync(unsigned mask, bool value) {
  bool any = false;
  for (int from = 0; from < 32; ++from) any |= __shfl_sync(mask, value ? 1 : 0, from) != 0;
  return any;
}
inline unsigned __ballot_sync(unsigned mask, bool value) {
  unsigned all = 0;
  for (int from = 0; from < 32; ++from) {
    all |= static_cast<unsigned>(__shfl_sync(mask, value ? 1 : 0, from)) << from;
  }
  return all;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return halfbyte::emulation::rounded(a * b); }
inline float __fadd_rn(float a, float b) { return halfbyte::emulation::rounded(a + b); }
inline float __fdiv_rn(float a, float b) { return halfbyte::emulation::rounded(a / b); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(std::uint64_t{a} * b >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) >> (by & 31));
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using C = std::common_type_t<A, B>;
  return static_cast<C>(a) < static_cast<C>(b) ? static_cast<C>(a) : static_cast<C>(b);
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using C = std::common_type_t<A, B>;
  return static_cast<C>(a) < static_cast<C>(b) ? static_cast<C>(b) : static_cast<C>(a);
}
