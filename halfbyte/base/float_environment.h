// The contract needs round-to-nearest-even with subnormals kept. A caller may run with other
// settings (torch.set_flush_denormal sets FTZ and DAZ): each kernel thread holds one of these.
#pragma once

#include <cstdint>

namespace halfbyte::base {

// Sets the IEEE default floating-point environment for this thread, and restores the caller's.
class IeeeFloatScope {
 public:
  IeeeFloatScope();
  ~IeeeFloatScope();
  IeeeFloatScope(const IeeeFloatScope&) = delete;
  IeeeFloatScope& operator=(const IeeeFloatScope&) = delete;

 private:
  std::uint64_t saved_;
};

}  // namespace halfbyte::base
