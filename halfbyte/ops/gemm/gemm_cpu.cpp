// SIMD kernel of the room, compiled once a CPU level. Sixteen rows of weights at a time (a panel):
//
//   a slice of the weights -> stage: one word a row and 8 columns, rows in lanes (gemm_cpu_stage.h)
//     for every row of A (gemm_input.h): dot products of its blocks -> acc -> the tree of slices
//   tree -> decode scales, bias -> c
//
// Whatever the order of the work, an element's sum has the order of the contract.
#include "halfbyte/numerics/visit_dtype.h"
#include "halfbyte/ops/gemm/gemm_cpu_dot.h"
#include "halfbyte/simd/threads.h"

namespace halfbyte::ops::HALFBYTE_LEVEL {
namespace {

using numerics::visit_float;

// Rows of A that go through a staged slice before the next slice.
constexpr std::int64_t kChunkRows = 64;

// numerics::TreeSum of each row of A and row of the panel: levels [level][panel row].
HWY_INLINE void add_slice(float* tree, std::int64_t slice, Vf node) {
  for (; (slice & 1) != 0; slice >>= 1, tree += kPanelRows) {
    node = hn::Add(hn::LoadU(Df(), tree), node);
  }
  hn::StoreU(node, Df(), tree);
}
HWY_INLINE Vf total(const float* tree, std::int64_t slices) {
  while ((slices & 1) == 0) {
    slices >>= 1;
    tree += kPanelRows;
  }
  Vf sum = hn::LoadU(Df(), tree);
  for (slices >>= 1, tree += kPanelRows; slices != 0; slices >>= 1, tree += kPanelRows) {
    if ((slices & 1) != 0) sum = hn::Add(hn::LoadU(Df(), tree), sum);
  }
  return sum;
}
HWY_INLINE std::int64_t tree_levels(std::int64_t slices) {
  std::int64_t levels = 1;
  while (slices >> levels != 0) ++levels;
  return levels;
}

// What a thread works with: a panel, and some rows of A.
struct Work {
  const GemmProblem& problem;
  const GemmInput& input;
  Stage& stage;
  float* trees;                // [row - first_row][level][panel row]
  std::int64_t tree_elements;  // of one row
  std::int64_t first_row;

  HWY_INLINE float* tree(std::int64_t row, std::int64_t panel_row) const {
    return trees + (row - first_row) * tree_elements + panel_row;
  }
};

// kRows rows of quantized A, of kTogether that alternate, times a slice of weights.
template <class Dot, Format kFormat, WeightForm kForm, int kRows, int kTogether, class Words>
HWY_INLINE void multiply_codes(const Work& work, const Words& words, std::int64_t slice,
                               std::int64_t row, std::int64_t blocks) {
  constexpr int kBlock = formats::block_elements(kFormat);
  constexpr bool kPlain = kForm == WeightForm::kPlain;
  static constexpr ByteTable<kForm> kTable{Dot::kOffset};
  const GemmInput& input = work.input;
  const std::int64_t k = work.problem.k, all_blocks = work.problem.blocks();
  const std::int64_t first_block = slice * slice_blocks(kFormat);
  // The rows are a group of those that alternate, or one of them.
  const std::int64_t first = (row - input.first_row) / kTogether * kTogether;
  const std::int64_t within = kRows == 1 ? row - input.first_row - first : 0;
  const Word table =
      hn::BitCast(Du(), hn::LoadDup128(hn::Repartition<std::int8_t, Du>(), kTable.values));
  const Word mask = hn::Set(Du(), 0x0F0F0F0Fu);
  for (std::int64_t lanes = 0; lanes < kPanelRows; lanes += kLanes) {
    Vf acc[kRows];
    for (Vf& each : acc) each = hn::Zero(Df());
    for (std::int64_t b = 0; b < blocks;) {
      Word word[4];
      words.load(static_cast<int>(b) * kBlock / 8, lanes, word);
      // One block of 32 columns, or two of 16.
      for (int start = 0; start < 4 && b < blocks; start += kBlock / 8, ++b) {
        const std::int8_t* a =
            input.codes + first * k + 4 * within + (slice * kSliceColumns + b * kBlock) * kTogether;
        const std::int64_t at = first * all_blocks + within + (first_block + b) * kTogether;
        Dot dots[kRows];
        for (int m = 0; m < kRows; ++m) dots[m].start(input.corrections[at + m]);
        for (int i = 0; i < kBlock / 8; ++i) {
          // The four columns that the low and the high nibbles have, among those of A: even and
          // odd ones of 8, or those of 16 where the weights are prepared.
          const int low = kPlain ? 8 * i : 16 * (i / 2) + 4 * (i % 2);
          const int high = low + (kPlain ? 4 : 8);
          const Word both = word[start + i];
          const Word low_bytes = Dot::look_up(table, hn::And(both, mask));
          const Word high_bytes = Dot::look_up(table, hn::And(hn::ShiftRight<4>(both), mask));
          for (int m = 0; m < kRows; ++m) {
            dots[m].add(low_bytes, a + low * kTogether + 4 * m);
            dots[m].add(high_bytes, a + high * kTogether + 4 * m);
          }
        }
        const Vf scale = hn::LoadU(Df(), work.stage.scales[0][b] + lanes);
        for (int m = 0; m < kRows; ++m) {
          const Vf dot = hn::ConvertTo(Df(), dots[m].total());
          if constexpr (kFormat == Format::kNvfp4) {
            const Vf a_scale = hn::Set(Df(), input.scales[at + m]);
            acc[m] = hn::MulAdd(dot, hn::Mul(scale, a_scale), acc[m]);
          } else {
            const float* a_scales = input.scales + at + first * all_blocks + m;
            const Vf rest = hn::LoadU(Df(), work.stage.scales[1][b] + lanes);
            const Vf first_factor = hn::Mul(scale, hn::Set(Df(), a_scales[0]));
            const Vf second_factor = hn::Mul(rest, hn::Set(Df(), a_scales[all_blocks * kTogether]));
            acc[m] = hn::Add(acc[m], hn::Mul(hn::Mul(dot, first_factor), second_factor));
          }
        }
      }
    }
    for (int m = 0; m < kRows; ++m) add_slice(work.tree(row + m, lanes), slice, acc[m]);
  }
}

// The same where A is not quantized.
template <Format kFormat, WeightForm kForm, int kRows, int kTogether, class Words>
HWY_INLINE void multiply_values(const Work& work, const Words& words, std::int64_t slice,
                                std::int64_t row, std::int64_t blocks) {
  constexpr int kBlock = formats::block_elements(kFormat);
  const std::int64_t k = work.problem.k;
  const std::int64_t first = (row - work.input.first_row) / kTogether * kTogether;
  const std::int64_t within = kRows == 1 ? row - work.input.first_row - first : 0;
  for (std::int64_t lanes = 0; lanes < kPanelRows; lanes += kLanes) {
    Vf acc[kRows];
    for (Vf& each : acc) each = hn::Zero(Df());
    for (std::int64_t b = 0; b < blocks;) {
      Word word[4];
      words.load(static_cast<int>(b) * kBlock / 8, lanes, word);
      for (int start = 0; start < 4 && b < blocks; start += kBlock / 8, ++b) {
        const float* x = work.input.values + first * k + within +
                         (slice * kSliceColumns + b * kBlock) * kTogether;
        Vf even[kRows], odd[kRows];
        HWY_UNROLL(32)
        for (int i = 0; i < kBlock; ++i) {
          const Word of_column = word[start + i / 16 * 2 + word_of_column<kForm>(i % 16)];
          const Vf weight = nibble_values<kForm>(
              hn::ShiftRightSame(of_column, 4 * nibble_of_column<kForm>(i % 16)));
          for (int m = 0; m < kRows; ++m) {
            Vf& chain = i % 2 == 0 ? even[m] : odd[m];
            const Vf value = hn::Set(Df(), x[i * kTogether + m]);
            chain = i < 2 ? hn::Mul(value, weight) : hn::MulAdd(value, weight, chain);
          }
        }
        Vf scale = hn::LoadU(Df(), work.stage.scales[0][b] + lanes);
        if constexpr (kFormat == Format::kNvfp4) {
          scale = hn::Mul(scale, hn::Set(Df(), 1 / kNvfp4StageFactor));
        }
        for (int m = 0; m < kRows; ++m) {
          acc[m] = hn::MulAdd(hn::Add(even[m], odd[m]), scale, acc[m]);
        }
      }
    }
    for (int m = 0; m < kRows; ++m) add_slice(work.tree(row + m, lanes), slice, acc[m]);
  }
}

// A vector instruction set's registers hold the sums of this many rows of A.
constexpr int kRowsAtOnce = kLanes == 16 ? 4 : 2;
static_assert(kRowsAtOnce == kGemmRowsTogether);

template <Format kFormat, WeightForm kForm, int kRows, int kTogether, bool kWhole, class Words>
HWY_INLINE void multiply_rows(const Work& work, const Words& words, std::int64_t slice,
                              std::int64_t row, std::int64_t most) {
  // A whole slice has a number of blocks that the compiler knows.
  const std::int64_t blocks = kWhole ? slice_blocks(kFormat) : most;
  if (!work.problem.quantized) {
    multiply_values<kFormat, kForm, kRows, kTogether>(work, words, slice, row, blocks);
    return;
  }
#if HWY_TARGET == HWY_AVX3
  if (work.input.vnni) {
    multiply_codes<DotVnni, kFormat, kForm, kRows, kTogether>(work, words, slice, row, blocks);
    return;
  }
#endif
  multiply_codes<Dot, kFormat, kForm, kRows, kTogether>(work, words, slice, row, blocks);
}

template <Format kFormat, WeightForm kForm, bool kWhole>
HWY_INLINE void multiply_staged(const Work& work, std::int64_t slice, std::int64_t begin,
                                std::int64_t end, std::int64_t blocks) {
  const StagedWords words{work.stage};
  if (work.input.together == 1) {
    for (std::int64_t row = begin; row < end; ++row) {
      multiply_rows<kFormat, kForm, 1, 1, kWhole>(work, words, slice, row, blocks);
    }
    return;
  }
  constexpr int kMost = kRowsAtOnce;
  for (std::int64_t row = begin; row < end;) {
    if ((row - work.input.first_row) % kMost == 0 && row + kMost <= end) {
      multiply_rows<kFormat, kForm, kMost, kMost, kWhole>(work, words, slice, row, blocks);
      row += kMost;
    } else {
      multiply_rows<kFormat, kForm, 1, kMost, kWhole>(work, words, slice, row, blocks);
      ++row;
    }
  }
}

// Rows [begin, end) of A times a panel of group `group`.
template <Format kFormat, WeightForm kForm>
HWY_NOINLINE void multiply_panel(const Work& work, const Panel& panel, std::int64_t begin,
                                 std::int64_t end) {
  constexpr std::int64_t kWidth = slice_blocks(kFormat);
  const std::int64_t all_blocks = work.problem.blocks();
  for (std::int64_t slice = 0; slice * kWidth < all_blocks; ++slice) {
    const std::int64_t left = all_blocks - slice * kWidth, blocks = left < kWidth ? left : kWidth;
    if (kForm == WeightForm::kPlain && panel.regular) {
      prefetch_next_panel(work.problem, panel, slice);
    }
    stage_scales<kForm>(work.problem, panel, slice, blocks, work.stage);
    if constexpr (kForm == WeightForm::kPlain) {
      if (end - begin == 1 && blocks == kWidth && panel.regular) {
        const PlainWords words{panel.codes + slice * (kSliceColumns / 2), panel.stride};
        if (work.input.together == 1) {
          multiply_rows<kFormat, kForm, 1, 1, true>(work, words, slice, begin, kWidth);
        } else {
          multiply_rows<kFormat, kForm, 1, kRowsAtOnce, true>(work, words, slice, begin, kWidth);
        }
        continue;
      }
    }
    stage_words<kForm>(work.problem, panel, slice, blocks, work.stage);
    if (blocks == kWidth) {
      multiply_staged<kFormat, kForm, true>(work, slice, begin, end, blocks);
    } else {
      multiply_staged<kFormat, kForm, false>(work, slice, begin, end, blocks);
    }
  }
}

using PanelProduct = void (*)(const Work& work, const Panel& panel, std::int64_t begin,
                              std::int64_t end);

PanelProduct panel_product(const GemmProblem& problem) {
  const bool plain = problem.form == WeightForm::kPlain;
  if (problem.format == Format::kNvfp4) {
    return plain ? multiply_panel<Format::kNvfp4, WeightForm::kPlain>
                 : multiply_panel<Format::kNvfp4, WeightForm::kPrepared>;
  }
  return plain ? multiply_panel<Format::kMxfp4, WeightForm::kPlain>
               : multiply_panel<Format::kMxfp4, WeightForm::kPrepared>;
}

// C = T( fl( fl( fl(sum * d_a) * d_b ) + bias ) ), the rows of a panel in one row of C.
template <class T, class B>
HWY_INLINE void store_row(const Work& work, const Panel& panel, std::int64_t group,
                          std::int64_t row) {
  const GemmProblem& problem = work.problem;
  const std::int64_t slices = (problem.k + kSliceColumns - 1) / kSliceColumns;
  const Vf d_a = hn::Set(Df(), problem.quantized ? problem.a_decode(row, group) : 1.0f);
  const Vf d_b = hn::Set(Df(), problem.b_scale.decode(group));
  T* c = static_cast<T*>(problem.c) + problem.c_rows.offset(row);
  for (std::int64_t lanes = 0; lanes < kPanelRows; lanes += kLanes) {
    const std::int64_t n = panel.n + lanes, count = problem.n - n;
    if (count <= 0) break;
    Vf value = hn::Mul(hn::Mul(total(work.tree(row, lanes), slices), d_a), d_b);
    if (problem.bias != nullptr) {
      const B* bias = static_cast<const B*>(problem.bias) + group * problem.n + n;
      value = hn::Add(value, load_elements(bias, count));
    }
    store_elements(Element<T>::round(value), c + n, count);
  }
}

struct Context {
  const GemmProblem& problem;
  const GemmInput& input;
  PanelProduct product;
  std::int64_t panels, tree_elements;
};

// The rows of a group that the input has.
struct Range {
  std::int64_t begin, end;
};
HWY_INLINE Range rows_of_group(const Context& context, std::int64_t group) {
  const GemmProblem& problem = context.problem;
  const std::int64_t first = context.input.first_row, last = first + context.input.rows;
  if (problem.groups == 0) return {first, last};
  const std::int64_t begin = problem.row_offsets[group], end = problem.row_offsets[group + 1];
  const std::int64_t from = begin > first ? begin : first, to = end < last ? end : last;
  return {from, to > from ? to : from};
}

// One panel of one group: the scratch holds a stage, then the trees of a chunk.
void run_unit(const Context& context, std::int64_t group, std::int64_t panel_index,
              simd::Scratch scratch) {
  const GemmProblem& problem = context.problem;
  const Panel panel(problem, group, panel_index);
  const auto [begin, end] = rows_of_group(context, group);
  auto* stage = reinterpret_cast<Stage*>(scratch.data);
  auto* trees = reinterpret_cast<float*>(scratch.data + sizeof(Stage));
  for (std::int64_t first = begin; first < end; first += kChunkRows) {
    const std::int64_t last = first + kChunkRows < end ? first + kChunkRows : end;
    const Work work{problem, context.input, *stage, trees, context.tree_elements, first};
    context.product(work, panel, first, last);
    visit_float(problem.c_dtype, [&]<class T>(T) HALFBYTE_INLINE_LAMBDA {
      const bool fp32_bias = problem.bias_dtype == base::DType::kF32;
      for (std::int64_t row = first; row < last; ++row) {
        if (fp32_bias) {
          store_row<T, float>(work, panel, group, row);
        } else {
          store_row<T, T>(work, panel, group, row);
        }
      }
    });
  }
}

// Units [begin, end): the panels of the first group that has rows, then those of the next one.
void run_units(const void* data, std::int64_t begin, std::int64_t end, simd::Scratch scratch) {
  const Context& context = *static_cast<const Context*>(data);
  const std::int64_t groups = context.problem.groups == 0 ? 1 : context.problem.groups;
  std::int64_t first = 0;  // unit of the group
  for (std::int64_t group = 0; group < groups && first < end; ++group) {
    const Range rows = rows_of_group(context, group);
    if (rows.begin == rows.end) continue;
    for (std::int64_t panel = 0; panel < context.panels; ++panel) {
      if (first + panel >= begin && first + panel < end) run_unit(context, group, panel, scratch);
    }
    first += context.panels;
  }
}

// Rows [begin, end) that the input has become +0.
void clear_rows(const GemmProblem& problem, const GemmInput& input, std::int64_t begin,
                std::int64_t end) {
  const std::int64_t bytes = base::dtype_bytes(problem.c_dtype);
  const std::int64_t last = input.first_row + input.rows;
  for (std::int64_t row = begin > input.first_row ? begin : input.first_row;
       row < (end < last ? end : last); ++row) {
    std::memset(static_cast<std::byte*>(problem.c) + problem.c_rows.offset(row) * bytes, 0,
                static_cast<std::size_t>(problem.n * bytes));
  }
}

}  // namespace

void gemm(const GemmProblem& problem, const GemmInput& input, int num_threads) {
  const std::int64_t slices = (problem.k + kSliceColumns - 1) / kSliceColumns;
  const Context context{problem, input, panel_product(problem),
                        (problem.n + kPanelRows - 1) / kPanelRows,
                        tree_levels(slices) * kPanelRows};
  if (problem.groups > 0) {  // rows of no group are those before the first and after the last
    clear_rows(problem, input, 0, problem.row_offsets[0]);
    clear_rows(problem, input, problem.row_offsets[problem.groups], problem.m);
  }
  std::int64_t active = 0, most = 0;
  for (std::int64_t group = 0; group < (problem.groups == 0 ? 1 : problem.groups); ++group) {
    const Range range = rows_of_group(context, group);
    const std::int64_t rows = range.end - range.begin;
    active += rows > 0 ? 1 : 0;
    most = rows > most ? rows : most;
  }
  const std::int64_t chunk = most < kChunkRows ? most : kChunkRows;
  const auto scratch = static_cast<std::size_t>(sizeof(Stage)) +
                       static_cast<std::size_t>(chunk * context.tree_elements) * sizeof(float);
  simd::parallel_rows(active * context.panels, kPanelRows * problem.k * (most < 1 ? 1 : most),
                      num_threads, scratch, run_units, &context);
}

}  // namespace halfbyte::ops::HALFBYTE_LEVEL
