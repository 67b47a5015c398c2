#include "halfbyte/base/float_environment.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace halfbyte::base {

#if defined(__x86_64__)
namespace {
constexpr unsigned kIeeeMxcsr = 0x1F80;  // exceptions masked, nearest even, no FTZ, no DAZ
}
IeeeFloatScope::IeeeFloatScope() : saved_(_mm_getcsr()) { _mm_setcsr(kIeeeMxcsr); }
IeeeFloatScope::~IeeeFloatScope() { _mm_setcsr(static_cast<unsigned>(saved_)); }
#elif defined(__aarch64__)
IeeeFloatScope::IeeeFloatScope() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" : : "r"(std::uint64_t{0}));
}
IeeeFloatScope::~IeeeFloatScope() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
#error "halfbyte: IeeeFloatScope is written for x86-64 and AArch64"
#endif

}  // namespace halfbyte::base
