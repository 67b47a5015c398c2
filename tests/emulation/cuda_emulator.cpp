#include "cuda_emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "halfbyte/numerics/half_types.h"

namespace halfbyte::emulation {

Index thread, block, grid;
alignas(128) std::uint8_t shared_memory[256 * 1024];

namespace {

constexpr std::size_t kStackBytes = 128 * 1024, kMaxWarps = 32, kExchangeBytes = 32;

struct Barrier {
  int arrived = 0;
  long generation = 0;
};
struct Copy {
  std::uint32_t to;
  const void* from;
};
struct Fiber {
  ucontext_t context;
  Index index;
  bool done = false;
  std::vector<char> stack;
  std::vector<Copy> copies;
  std::vector<std::vector<Copy>> groups;
};

std::vector<Fiber> fibers;
ucontext_t scheduler;
Fiber* running = nullptr;
const std::function<void()>* body = nullptr;
int alive = 0, alive_in_warp[kMaxWarps];
Barrier block_barrier, warp_barriers[kMaxWarps], half_barriers[kMaxWarps][2];
std::uint8_t exchanged[kMaxWarps][32][kExchangeBytes];
std::uint32_t shared_bytes = 0;
std::vector<Readable> readable;

[[noreturn]] void fail(const char* what, unsigned long long at) {
  std::fprintf(stderr, "block %u thread %u: %s at %llu\n", block.x, thread.x, what, at);
  std::abort();
}

void yield() {
  Fiber* me = running;
  swapcontext(&me->context, &scheduler);
}
void wait(Barrier& barrier, int all) {
  const long generation = barrier.generation;
  if (++barrier.arrived >= all) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  while (barrier.generation == generation) yield();
}
void run_fiber() {
  (*body)();
  running->done = true;
  --alive;
  --alive_in_warp[warp()];
  yield();
}

void run_block(int threads) {
  fibers.assign(static_cast<std::size_t>(threads), Fiber{});
  alive = threads;
  block_barrier = {};
  for (std::size_t w = 0; w < kMaxWarps; ++w) {
    alive_in_warp[w] = 32;
    warp_barriers[w] = half_barriers[w][0] = half_barriers[w][1] = {};
  }
  unsigned index = 0;
  for (Fiber& fiber : fibers) {
    fiber.index.x = index++;
    fiber.stack.resize(kStackBytes);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
  }
  for (long before = -1; alive > 0;) {
    for (Fiber& fiber : fibers) {
      if (fiber.done) continue;
      running = &fiber;
      thread = fiber.index;
      swapcontext(&scheduler, &fiber.context);
    }
    long met = block_barrier.generation + (threads - alive);
    for (std::size_t w = 0; w < kMaxWarps; ++w) {
      met += warp_barriers[w].generation + half_barriers[w][0].generation +
             half_barriers[w][1].generation;
    }
    if (met == before)
      fail("a barrier that not all reach; barriers met", static_cast<unsigned long long>(met));
    before = met;
  }
}

}  // namespace

void launch(int blocks, int threads, const std::function<void()>& kernel) {
  body = &kernel;
  grid.x = static_cast<unsigned>(blocks);
  for (block.x = 0; block.x < grid.x; ++block.x) {
    std::memset(shared_memory, 0xFF, sizeof shared_memory);  // NaN, and no index
    run_block(threads);
  }
}

void sync_block() { wait(block_barrier, alive); }
void sync_lanes(unsigned mask) {
  if (mask == 0xFFFFFFFFu) {
    wait(warp_barriers[warp()], alive_in_warp[warp()]);
  } else {
    wait(half_barriers[warp()][lane() / 16], 16);
  }
}
void exchange(unsigned mask, const void* mine, void* theirs, std::size_t bytes, int from) {
  std::memcpy(exchanged[warp()][lane()], mine, bytes);
  sync_lanes(mask);
  std::memcpy(theirs, exchanged[warp()][from & 31], bytes);
  sync_lanes(mask);
}

void set_shared_bytes(std::uint32_t bytes) { shared_bytes = bytes; }
std::uint8_t* shared_at(std::uint32_t at, std::uint32_t bytes) {
  if (at + bytes > shared_bytes) fail("access beyond shared memory", at);
  if (at % bytes != 0) fail("misaligned access to shared memory", at);
  return shared_memory + at;
}
std::uint32_t shared_offset(const void* p) {
  return static_cast<std::uint32_t>(static_cast<const std::uint8_t*>(p) - shared_memory);
}

void set_readable(std::vector<Readable> all) { readable = std::move(all); }
void copy_async(std::uint32_t to, const void* from) { running->copies.push_back({to, from}); }
void commit_copies() {
  running->groups.push_back(std::move(running->copies));
  running->copies.clear();
}
void wait_copies(int pending) {
  auto& groups = running->groups;
  while (groups.size() > static_cast<std::size_t>(pending)) {
    for (const Copy& copy : groups.front()) {
      const auto* from = static_cast<const std::uint8_t*>(copy.from);
      const bool within = std::any_of(readable.begin(), readable.end(), [&](const Readable& r) {
        const auto* begin = static_cast<const std::uint8_t*>(r.begin);
        return from >= begin && from + 16 <= begin + r.bytes;
      });
      if (!within) fail("copy from elsewhere, to", copy.to);
      std::memcpy(shared_at(copy.to, 16), from, 16);
    }
    groups.erase(groups.begin());
  }
}

float half_value(std::uint32_t bits) {
  return numerics::to_float(numerics::Fp16{static_cast<std::uint16_t>(bits)});
}
std::uint32_t half_pair(float low, float high) {
  return numerics::round_to<numerics::Fp16>(low).bits |
         std::uint32_t{numerics::round_to<numerics::Fp16>(high).bits} << 16;
}
std::uint32_t permute_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
  const std::uint64_t from = std::uint64_t{b} << 32 | a;
  std::uint32_t to = 0;
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t by = selector >> (4 * i) & 15;
    const auto byte = static_cast<std::uint32_t>(from >> (8 * (by & 7)) & 0xFF);
    to |= (by < 8 ? byte : (byte & 0x80u) != 0 ? 0xFFu : 0u) << (8 * i);
  }
  return to;
}
std::uint32_t times(std::uint32_t a, std::uint32_t b) {
  return half_pair(half_value(a) * half_value(b), half_value(a >> 16) * half_value(b >> 16));
}

float4 product(const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, float4 c) {
  struct Registers {
    std::uint32_t a[4], b[2];
  };
  static_assert(sizeof(Registers) <= kExchangeBytes);
  const Registers mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  std::memcpy(exchanged[warp()][lane()], &mine, sizeof mine);
  sync_lanes(0xFFFFFFFFu);
  const auto registers = [](int lane) {
    Registers theirs;
    std::memcpy(&theirs, exchanged[warp()][lane], sizeof theirs);
    return theirs;
  };
  const auto half_of = [](std::uint32_t pair, int k) {
    return static_cast<double>(half_value(k % 2 != 0 ? pair >> 16 : pair));
  };
  const float from[4] = {c.x, c.y, c.z, c.w};
  float sums[4];
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + i / 2 * 8, column = lane() % 4 * 2 + i % 2;
    double sum = static_cast<double>(from[i]);
    for (int k = 0; k < 16; ++k) {
      const int t = k % 8 / 2, high = k / 8;
      sum += half_of(registers(row % 8 * 4 + t).a[row / 8 + 2 * high], k) *
             half_of(registers(column * 4 + t).b[high], k);
    }
    sums[i] = static_cast<float>(sum);
  }
  sync_lanes(0xFFFFFFFFu);
  return {sums[0], sums[1], sums[2], sums[3]};
}

}  // namespace halfbyte::emulation
