#include "halfbyte/ops/common/testing_activation.h"

namespace halfbyte::ops::testing {

Activation random_activation(Random& random) {
  Activation activation;
  activation.interleave = random.pick({0, 0, 1, 8});
  if (random.one_in(2)) activation.clamp = random.pick({7.0f, 7.0f, 1.0f, 1e-40f, 3e38f});
  activation.alpha = random.pick({1.0f, 1.0f, 1.702f, -1.0f, 0.0f, 1e-40f, 3e38f, 0.3f});
  activation.up_bias = random.pick({0.0f, 0.0f, -0.0f, 1.0f, 1.0f, -1.0f, 1e-40f, 3e38f});
  activation.rounding = random.pick({Rounding::kFloat32, Rounding::kHuggingFace});
  if (random.one_in(4)) {  // gpt-oss
    activation = {.interleave = 1, .clamp = 7.0f, .alpha = 1.702f, .up_bias = 1.0f};
  }
  return activation;
}

std::string describe(const Activation& activation) {
  return "interleave " + std::to_string(activation.interleave) + ", clamp " +
         (activation.clamp ? std::to_string(*activation.clamp) : "none") + ", alpha " +
         std::to_string(activation.alpha) + ", up_bias " + std::to_string(activation.up_bias) +
         (activation.rounding == Rounding::kHuggingFace ? ", huggingface" : "");
}

}  // namespace halfbyte::ops::testing
