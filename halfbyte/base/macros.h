// HALFBYTE_HD marks what both compilers, host and device, compile from one source. It forces
// inlining on the host: a *_cpu.cpp is compiled once a CPU level, and an out-of-line copy of a
// shared inline function could be the one that the linker keeps for every level.
// HALFBYTE_API marks what the shared library exports.
#pragma once

#ifdef __CUDACC__
#define HALFBYTE_HD __host__ __device__ __forceinline__
#else
#define HALFBYTE_HD inline __attribute__((always_inline))
#endif

#define HALFBYTE_API __attribute__((visibility("default")))
