// Random options of the gated activation, for the property tests of the operators that have one.
#pragma once

#include <string>

#include "halfbyte/ops/common/activation.h"
#include "halfbyte/ops/common/testing_random.h"

namespace halfbyte::ops::testing {

Activation random_activation(Random& random);
std::string describe(const Activation& activation);

}  // namespace halfbyte::ops::testing
