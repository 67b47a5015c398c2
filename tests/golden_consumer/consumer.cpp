// Prints "<case> <hash>" a line, computed on the host. Compiled as C++ and, through consumer.cu, by
// nvcc.
#include <cinttypes>
#include <cstdio>
#include <vector>

#include "consumer_body.h"

int main() {
  std::printf("version %d\n", halfbyte::numerics::kNumericsVersion);
  std::vector<std::uint64_t> hashes(golden::kBlocks);
  for (int which = 0; which < golden::kCases; ++which) {
    for (std::uint32_t block = 0; block < golden::kBlocks; ++block) {
      hashes[block] = golden::block_hash(which, block);
    }
    std::printf("%s %016" PRIx64 "\n", golden::kNames[which], golden::fold(hashes.data()));
  }
#ifdef __CUDACC__
  return golden_on_device();
#else
  return 0;
#endif
}
