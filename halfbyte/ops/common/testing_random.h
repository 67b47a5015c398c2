// Random cases of the operator rooms' property tests: shapes, strides, values and options, all from
// one seed that a failure prints.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "halfbyte/ops/common/quantize_spec.h"
#include "halfbyte/ops/common/testing.h"

namespace halfbyte::ops::testing {

// mt19937_64 is the same everywhere; <random>'s distributions are not, and are not used.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  std::uint64_t bits() { return engine_(); }
  // lowest .. highest, both included
  std::int64_t in(std::int64_t lowest, std::int64_t highest) {
    return lowest +
           static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(highest - lowest + 1));
  }
  bool one_in(std::int64_t n) { return in(1, n) == 1; }
  template <class T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[in(0, static_cast<std::int64_t>(choices.size()) - 1)];
  }
  float uniform();  // in [-1, 1)
  float normal();   // about normal, |x| < 6

  // Tensors of this case: all aligned to 16 bytes, rows included where columns allow it, as the
  // vectorised kernels want them; rows and columns as given instead of drawn, 0: drawn.
  bool aligned = false;
  std::int64_t columns = 0;
  std::int64_t rows = 0;  // with columns

 private:
  std::mt19937_64 engine_;
};

// A tensor of M = product of `lead` rows.
struct Shape {
  std::vector<std::int64_t> lead;
  std::int64_t columns = 0;

  std::int64_t rows() const;
  std::vector<std::int64_t> with_columns(std::int64_t count) const;  // lead + [count]
};

// M 0 .. 40 or about 128, H a multiple of `column_multiple`, mostly up to 4096 elements; one in 50
// is large enough to be shared among threads.
Shape random_shape(Random& random, std::int64_t column_multiple);

base::DType random_float_dtype(Random& random);

// Rows with random gaps, order and alignment, in at most two levels of strides; no row overlaps
// another.
TestTensor random_tensor(Random& random, base::DType dtype, std::vector<std::int64_t> shape);

// Every kind of value that has a rule of its own, see the .cpp.
void fill_random(Random& random, const base::TensorView& view);
// A positive finite fp32 scale: ordinary, or at an end of the range.
float random_scale(Random& random);

QuantizeSpec random_spec(Random& random, Format format, bool with_te);
// The outputs of a quantization and a scale that may be given, under the names of their fields;
// the outputs' scales are "out_global_scale" and "out_decode_scale".
void add_quantize_tensors(Random& random, const QuantizeSpec& spec, const Shape& shape,
                          TensorSet& set);
GivenScale given_scale(const TensorSet& set);
QuantizeOutputs quantize_outputs(const TensorSet& set);

std::string describe(const QuantizeSpec& spec);

struct Case {
  TensorSet tensors;
  Operation operation;
  std::string text;  // its parameters
};

// Makes `count` cases, every second one of aligned tensors, of the seeds from `first_seed` on, and
// expects every runner to leave the bytes that the reference leaves, everywhere in the storage.
// Gives up after three failures. The environment variable HALFBYTE_TEST_CASES lowers `count`
// (sanitizers are slow).
void expect_equals_reference(const std::function<Case(Random&)>& make_case,
                             std::uint64_t first_seed, int count,
                             const std::vector<Runner>& runners);

// The same for rows of 16k columns, k = 1 .. 2048, and of some longer ones, against the CPU kernel.
void expect_every_row_length(const std::function<Case(Random&)>& make_case,
                             std::uint64_t first_seed, const std::vector<Runner>& runners);

// The same for more rows than a GPU takes at once, of a megabyte or two: those loops turn.
void expect_many_rows(const std::function<Case(Random&)>& make_case, std::uint64_t first_seed,
                      int count, const std::vector<Runner>& runners);

// Two operations that leave the same in every tensor: a fused operator and its parts in sequence.
struct TwoWays {
  TensorSet tensors;
  Operation one, other;
  std::string text;
};

// Makes `count` of them, at most HALFBYTE_TEST_CASES, and expects each runner to leave the same
// bytes both ways.
void expect_two_ways_agree(const std::function<TwoWays(Random&)>& make, std::uint64_t first_seed,
                           int count, const std::vector<Runner>& runners);
// The reference and every CPU level with three threads.
std::vector<Runner> reference_and_cpu_runners();

}  // namespace halfbyte::ops::testing
