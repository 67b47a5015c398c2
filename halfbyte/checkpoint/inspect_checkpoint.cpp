#include "halfbyte/checkpoint/inspect_checkpoint.h"

#include <algorithm>
#include <utility>

#include "halfbyte/checkpoint/findings.h"

namespace halfbyte::checkpoint {
namespace {

using base::Result;
using formats::Format;

// Blocks read in one go: a page of codes, about.
constexpr std::int64_t kWindowBlocks = 512;
// Windows of all weights together, unless there are more weights than that.
constexpr std::int64_t kWindows = 8192;

constexpr std::uint8_t kE4m3NanBits = 0x7F;
constexpr std::uint8_t kE4m3Saturated = 0x7E;
constexpr std::uint8_t kE8m0Nan = 0xFF;

std::int64_t blocks_of(const StoredWeight& weight) {
  return weight.format == Format::kFp8
             ? 0
             : weight.matrices * weight.rows *
                   (weight.columns / formats::block_elements(weight.format));
}

// Scales [begin, end) of a weight, in the order of the file, and, where codes lie in the same
// order, whether the codes of each are all zero.
ScaleStatistics window_statistics(const StoredWeight& weight, std::int64_t begin,
                                  std::int64_t end) {
  ScaleStatistics found;
  const bool nvfp4 = weight.format == Format::kNvfp4;
  const bool paired = weight.packing != Packing::kTransposed;
  const std::int64_t code_bytes = formats::block_elements(weight.format) / 2;
  const auto* scales = reinterpret_cast<const std::uint8_t*>(weight.scales.entry->data);
  const auto* codes = reinterpret_cast<const std::uint8_t*>(weight.codes.entry->data);
  for (std::int64_t block = begin; block < end; ++block) {
    const std::uint8_t scale = scales[block];
    ++found.blocks;
    bool zero_codes = paired;
    for (std::int64_t i = 0; paired && i < code_bytes; ++i) {
      zero_codes = zero_codes && (codes[block * code_bytes + i] & 0x77) == 0;
    }
    const bool nan = nvfp4 ? (scale & 0x7F) == kE4m3NanBits : scale == kE8m0Nan;
    const bool zero = nvfp4 && (scale & 0x7F) == 0;
    found.nan += nan;
    found.zero += zero;
    found.negative += nvfp4 && !nan && !zero && (scale & 0x80) != 0;
    found.saturated += nvfp4 && scale == kE4m3Saturated;
    found.zero_with_codes += paired && zero && !zero_codes;
    found.zero_blocks += scale == 0 && zero_codes;
    if (nan || zero || (!nvfp4 && scale == 0)) continue;
    found.min_byte = std::min<int>(found.min_byte, scale);
    found.max_byte = std::max<int>(found.max_byte, scale);
  }
  const auto release = [](const TensorRef& tensor, std::int64_t first, std::int64_t last) {
    io::release_pages({tensor.entry->data + first, static_cast<std::size_t>(last - first)});
  };
  release(weight.scales, begin, end);
  if (paired) release(weight.codes, begin * code_bytes, end * code_bytes);
  return found;
}

// `windows` windows, spread evenly; all blocks where that is fewer.
ScaleStatistics sample(const StoredWeight& weight, std::int64_t windows) {
  ScaleStatistics found;
  const std::int64_t blocks = blocks_of(weight);
  if (windows == 0 || windows * kWindowBlocks >= blocks) {
    for (std::int64_t at = 0; at < blocks; at += kWindowBlocks) {
      found += window_statistics(weight, at, std::min(blocks, at + kWindowBlocks));
    }
    return found;
  }
  for (std::int64_t i = 0; i < windows; ++i) {
    const std::int64_t last = blocks - kWindowBlocks;
    const std::int64_t at = windows == 1 ? 0 : last / (windows - 1) * i;
    found += window_statistics(weight, at, at + kWindowBlocks);
  }
  return found;
}

InspectedWeight look_at(const StoredWeight& weight, std::int64_t windows) {
  InspectedWeight inspected;
  inspected.name = weight.name;
  inspected.format = weight.format;
  inspected.convention = weight.convention;
  inspected.shape = weight.decoded_shape();
  inspected.has_global_scale = static_cast<bool>(weight.global_scale);
  if (weight.global_scale) inspected.global_scale = stored_scale(weight.global_scale, 0);
  inspected.has_input_scale = static_cast<bool>(weight.input_scale);
  if (weight.input_scale) inspected.input_scale = stored_scale(weight.input_scale, 0);
  if (weight.format != Format::kFp8) inspected.scales = sample(weight, windows);
  return inspected;
}

void count(std::map<std::string, FormatTotals>& formats, const std::string& name,
           std::int64_t bytes) {
  FormatTotals& totals = formats[name];
  ++totals.tensors;
  totals.bytes += bytes;
}

}  // namespace

ScaleStatistics& ScaleStatistics::operator+=(const ScaleStatistics& other) {
  blocks += other.blocks;
  zero += other.zero;
  zero_with_codes += other.zero_with_codes;
  nan += other.nan;
  negative += other.negative;
  saturated += other.saturated;
  zero_blocks += other.zero_blocks;
  min_byte = std::min(min_byte, other.min_byte);
  max_byte = std::max(max_byte, other.max_byte);
  return *this;
}

Result<InspectReport> inspect_checkpoint(const std::filesystem::path& path,
                                         const InspectOptions& options) {
  const Result<ModelFiles> files = ModelFiles::open(path);
  if (!files.ok()) return files.status();
  Result<ReadDeclaration> declaration = read_declaration(files.value());
  if (!declaration.ok()) return declaration.status();
  const Result<StoredCheckpoint> stored = find_stored_weights(files.value());
  if (!stored.ok()) return stored.status();
  if (!options.full) {
    for (const io::SafetensorsFile& shard : files.value().shards()) shard.expect_random_reads();
  }

  InspectReport report;
  report.shards = static_cast<std::int64_t>(files.value().shards().size());
  report.bytes = files.value().data_bytes();
  report.declaration = std::move(declaration).value();
  const auto& weights = stored.value().weights;
  const auto weight_count = std::max<std::int64_t>(1, static_cast<std::int64_t>(weights.size()));
  const std::int64_t windows =
      options.full ? 0 : std::max<std::int64_t>(1, kWindows / weight_count);
  for (const io::SafetensorsFile& shard : files.value().shards()) {
    report.tensors += static_cast<std::int64_t>(shard.entries().size());
  }
  for (const StoredWeight& weight : weights) {
    const std::int64_t bytes =
        weight.codes.entry->size_bytes() + (weight.scales ? weight.scales.entry->size_bytes() : 0);
    count(
        report.formats,
        std::string(formats::format_name(weight.format)) + " " + convention_name(weight.convention),
        bytes);
    report.weights.push_back(look_at(weight, windows));
    report.total_blocks += blocks_of(weight);
    report.sampled_blocks += report.weights.back().scales.blocks;
  }
  for (const TensorRef& tensor : stored.value().plain) {
    count(report.formats, std::string(io::dtype_name(tensor.entry->dtype)),
          tensor.entry->size_bytes());
  }
  report.findings = find_suspicious(report, weights, stored.value().plain);
  return report;
}

}  // namespace halfbyte::checkpoint
