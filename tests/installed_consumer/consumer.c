/* A C program against the installed library: quantizes two rows of 16 and prints what came out. */
#include <halfbyte/halfbyte.h>
#include <stdio.h>

int main(void) {
  float x[32];
  int i;
  for (i = 0; i < 32; ++i) x[i] = (float)(i % 16) * 0.25f - 1.5f;
  uint8_t codes[16], scales[2];
  const int64_t x_shape[2] = {2, 16}, codes_shape[2] = {2, 8}, scales_shape[2] = {2, 1};
  const halfbyte_device cpu = {1, 0};
  const halfbyte_dtype f32 = {2, 32, 1}, u8 = {1, 8, 1};
  const halfbyte_tensor x_tensor = {x, cpu, 2, f32, x_shape, NULL, 0};
  const halfbyte_tensor codes_tensor = {codes, cpu, 2, u8, codes_shape, NULL, 0};
  const halfbyte_tensor scales_tensor = {scales, cpu, 2, u8, scales_shape, NULL, 0};

  HALFBYTE_INIT(halfbyte_quantize_spec, spec);
  HALFBYTE_INIT(halfbyte_quantize_outputs, out);
  out.codes = &codes_tensor;
  out.scales = &scales_tensor;
  HALFBYTE_INIT(halfbyte_quantize_args, args);
  args.x = &x_tensor;
  args.spec = &spec;
  args.out = &out;
  if (halfbyte_quantize(&args, NULL) != HALFBYTE_OK) {
    fprintf(stderr, "%s\n", halfbyte_error_message());
    return 1;
  }
  printf("halfbyte %s\nscales %02x %02x\ncodes", halfbyte_version(), scales[0], scales[1]);
  for (i = 0; i < 8; ++i) printf(" %02x", codes[i]);

  args.x = NULL;
  if (halfbyte_quantize(&args, NULL) != HALFBYTE_INVALID_ARGUMENT) return 1;
  printf("\nerror %s\n", halfbyte_error_message());
  return 0;
}
