// The same as consumer.c, against the installed C++ headers; and one block by the formats alone.
#include <halfbyte/formats/nvfp4.h>
#include <halfbyte/halfbyte.h>
#include <halfbyte/ops/quantize/quantize.h>

#include <cmath>
#include <cstdint>
#include <cstdio>

using halfbyte::base::DType;
using halfbyte::base::TensorView;

int main() {
  float x[32];
  for (int i = 0; i < 32; ++i) x[i] = static_cast<float>(i % 16) * 0.25f - 1.5f;
  std::uint8_t codes[16], scales[2];

  halfbyte::ops::QuantizeArgs args;
  args.x = TensorView(x, DType::kF32, {2, 16});
  args.out.codes = TensorView(codes, DType::kU8, {2, 8});
  args.out.scales = TensorView(scales, DType::kU8, {2, 1});
  if (const halfbyte::base::Status status = halfbyte::ops::quantize(args); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  std::printf("halfbyte %s\nscales %02x %02x\ncodes", halfbyte_version(), scales[0], scales[1]);
  for (int i = 0; i < 8; ++i) std::printf(" %02x", codes[i]);

  args.x = {};
  std::printf("\nerror %s\n", halfbyte::ops::quantize(args).message().c_str());

  namespace formats = halfbyte::formats;
  float amax = 0.0f;
  for (int i = 0; i < 16; ++i) amax = std::fmax(amax, std::fabs(x[i]));
  const formats::Nvfp4Scale scale = formats::nvfp4_scale_given(1.0f);
  const std::uint8_t block = formats::nvfp4_block_scale(amax, scale, formats::ScaleRule::kKernel);
  const float reciprocal = formats::nvfp4_reciprocal(block, scale);
  bool equal = block == scales[0];
  for (int i = 0; i < 16; ++i) {
    equal = equal &&
            formats::e2m1_unpack(codes[i / 2], i % 2) == formats::nvfp4_encode(x[i], reciprocal);
  }
  return equal ? 0 : 1;
}
