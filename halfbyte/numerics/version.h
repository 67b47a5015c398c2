// Bits are an interface: any change of what an operator gives raises this number and the committed
// golden hashes (tests/golden).
#pragma once

namespace halfbyte::numerics {
inline constexpr int kNumericsVersion = 1;
}
