#include "halfbyte/checkpoint/compare_checkpoints.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <utility>

#include "halfbyte/checkpoint/declaration.h"
#include "halfbyte/checkpoint/expert_stacks.h"
#include "halfbyte/checkpoint/linear_weights.h"
#include "halfbyte/checkpoint/matrix_source.h"
#include "halfbyte/checkpoint/parallel.h"
#include "halfbyte/checkpoint/stored_weights.h"

namespace halfbyte::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::DType;
using base::Result;
using base::Status;
using base::TensorView;

// A tensor as it is compared: stored as it stands, quantized, or a part of a stack.
struct Item {
  TensorRef plain;
  const StoredWeight* weight = nullptr;
  bool is_part = false;
  MatrixSource part;

  std::vector<std::int64_t> shape() const {
    if (weight != nullptr) return weight->decoded_shape();
    if (is_part) return {part.rows, part.columns};
    return plain.entry->shape;
  }
  bool has_values() const { return weight != nullptr || is_float_tensor(*plain.entry); }
  std::string kind() const {
    if (weight != nullptr) {
      return std::string(formats::format_name(weight->format)) + " " +
             convention_name(weight->convention);
    }
    return std::string(io::dtype_name(plain.entry->dtype));
  }
  // The tensors behind it, in a fixed order.
  std::vector<TensorRef> parts() const {
    if (weight == nullptr) return {plain};
    std::vector<TensorRef> tensors = {weight->codes};
    if (weight->scales) tensors.push_back(weight->scales);
    if (weight->global_scale) tensors.push_back(weight->global_scale);
    return tensors;
  }
};

struct Side {
  ModelFiles files;
  StoredCheckpoint stored;
  std::map<std::string, Item> items;
};

Status open_side(const fs::path& path, Side& side) {
  Result<ModelFiles> files = ModelFiles::open(path);
  if (!files.ok()) return files.status();
  side.files = std::move(files).value();
  Result<StoredCheckpoint> stored = find_stored_weights(side.files);
  if (!stored.ok()) return stored.status();
  side.stored = std::move(stored).value();
  for (const StoredWeight& weight : side.stored.weights) {
    side.items[weight.name] = {weight.codes, &weight, false, {}};
    if (weight.input_scale) {
      side.items[weight.input_scale.entry->name] = {weight.input_scale, nullptr, false, {}};
    }
  }
  for (const TensorRef& tensor : side.stored.plain) {
    side.items[tensor.entry->name] = {tensor, nullptr, false, {}};
  }
  return {};
}

// Replaces the stacks of `side` that `other` stores as one layer an expert by these.
void split_stacks(Side& side, const Side& other) {
  const ModelShape model = read_model_shape(side.files);
  for (const TensorRef& tensor : side.stored.plain) {
    if (!is_expert_stack(*tensor.entry) || other.items.count(tensor.entry->name) != 0) continue;
    const auto parts = split_stack(tensor, model);
    if (parts.empty() || other.items.count(parts.front().module + ".weight") == 0) continue;
    side.items.erase(tensor.entry->name);
    for (const StackMatrix& part : parts) {
      side.items[part.module + ".weight"] = {tensor, nullptr, true, part.source};
    }
  }
}

struct Scratch {
  DecodeScratch decode;
  std::vector<float> stored, a, b;
};

// One matrix of an item, [rows, columns].
struct Matrix {
  const StoredWeight* weight = nullptr;
  std::int64_t index = 0;
  MatrixSource source;

  std::int64_t rows() const { return weight != nullptr ? weight->rows : source.rows; }
  std::int64_t columns() const { return weight != nullptr ? weight->columns : source.columns; }
  bool row_by_row() const {
    return weight != nullptr ? weight->packing != Packing::kTransposed : source.column_stride == 1;
  }
  Status read(std::int64_t begin, std::int64_t count, Scratch& scratch,
              std::vector<float>& out) const {
    const std::int64_t elements = count * columns();
    out.resize(static_cast<std::size_t>(elements));
    if (weight != nullptr) {
      HALFBYTE_RETURN_IF_ERROR(decode_rows(*weight, index, begin,
                                           TensorView(out.data(), DType::kF32, {count, columns()}),
                                           scratch.decode));
      release_stored(*weight, index, begin, count);
      return {};
    }
    scratch.stored.resize(static_cast<std::size_t>(elements));
    gather_rows(source, begin, count, scratch.stored.data());
    to_float(source.dtype, scratch.stored.data(), elements, out.data());
    release_rows(source, begin, count);
    return {};
  }
};

std::vector<Matrix> matrices_of(const Item& item, const Item& other) {
  std::vector<Matrix> matrices;
  if (item.weight != nullptr) {
    for (std::int64_t i = 0; i < item.weight->matrices; ++i)
      matrices.push_back({item.weight, i, {}});
  } else if (item.is_part) {
    matrices.push_back({nullptr, 0, item.part});
  } else if (other.weight != nullptr && other.weight->is_stack()) {  // [E, K, N] as [N, K] each
    const auto& shape = item.plain.entry->shape;
    for (std::int64_t i = 0; i < shape[0]; ++i) {
      MatrixSource source = matrix_of(item.plain);
      source.first = i * shape[1] * shape[2];
      source.rows = shape[2];
      source.columns = shape[1];
      source.row_stride = 1;
      source.column_stride = shape[2];
      matrices.push_back({nullptr, 0, source});
    }
  } else {
    matrices.push_back({nullptr, 0, matrix_of(item.plain)});
  }
  return matrices;
}

struct BytePiece {
  std::size_t tensor;
  std::span<const std::byte> a, b;
};

struct ValuePiece {
  std::size_t tensor;
  Matrix a, b;
  std::int64_t begin, count;
};

class Comparer {
 public:
  Comparer(const Side& a, const Side& b, const CompareOptions& options)
      : a_(a),
        b_(b),
        options_(options),
        progress_(options.progress, a.files.data_bytes() + b.files.data_bytes()) {}

  Result<CompareReport> run() {
    for (const auto& [name, item] : a_.items) {
      const auto other = b_.items.find(name);
      if (other == b_.items.end()) {
        report_.only_a.push_back(name);
      } else {
        plan(name, item, other->second);
      }
    }
    for (const auto& [name, item] : b_.items) {
      if (a_.items.count(name) == 0) report_.only_b.push_back(name);
    }
    report_.bytes = a_.files.data_bytes() + b_.files.data_bytes();
    HALFBYTE_RETURN_IF_ERROR(compare_bytes());
    HALFBYTE_RETURN_IF_ERROR(compare_values());
    return std::move(report_);
  }

 private:
  void plan(const std::string& name, const Item& a, const Item& b) {
    ComparedTensor compared;
    compared.name = name;
    compared.kind_a = a.kind();
    compared.kind_b = b.kind();
    const std::size_t index = report_.tensors.size();
    pairs_.push_back({&a, &b});
    if (a.shape() != b.shape()) {
      compared.difference =
          "shape " + io::short_shape(a.shape()) + " and " + io::short_shape(b.shape());
    } else if (can_be_equal(a, b)) {
      compared.equal_bits = true;  // until a piece differs
      add_byte_pieces(index, a, b);
    } else if (!a.has_values() || !b.has_values()) {
      compared.difference = "dtype " + compared.kind_a + " and " + compared.kind_b;
    }
    report_.tensors.push_back(std::move(compared));
  }

  static bool can_be_equal(const Item& a, const Item& b) {
    if (a.is_part || b.is_part || (a.weight == nullptr) != (b.weight == nullptr)) return false;
    if (a.weight != nullptr &&
        (a.weight->convention != b.weight->convention || a.weight->packing != b.weight->packing)) {
      return false;
    }
    const auto left = a.parts(), right = b.parts();
    return std::equal(left.begin(), left.end(), right.begin(), right.end(),
                      [](const TensorRef& x, const TensorRef& y) {
                        return x.entry->dtype == y.entry->dtype && x.entry->shape == y.entry->shape;
                      });
  }

  void add_byte_pieces(std::size_t tensor, const Item& a, const Item& b) {
    constexpr std::size_t kPiece = std::size_t{4} << 20;
    const auto left = a.parts(), right = b.parts();
    for (std::size_t i = 0; i < left.size(); ++i) {
      const auto x = left[i].entry->bytes(), y = right[i].entry->bytes();
      for (std::size_t at = 0; at < x.size(); at += kPiece) {
        const std::size_t count = std::min(kPiece, x.size() - at);
        bytes_.push_back({tensor, x.subspan(at, count), y.subspan(at, count)});
      }
    }
  }

  Status compare_bytes() {
    std::vector<std::atomic<bool>> differs(report_.tensors.size());
    HALFBYTE_RETURN_IF_ERROR(
        run_parallel(static_cast<std::int64_t>(bytes_.size()), options_.num_threads,
                     [&](std::int64_t item, int) -> Status {
                       const BytePiece& piece = bytes_[static_cast<std::size_t>(item)];
                       if (!differs[piece.tensor] &&
                           std::memcmp(piece.a.data(), piece.b.data(), piece.a.size()) != 0) {
                         differs[piece.tensor] = true;
                       }
                       io::release_pages(piece.a);
                       io::release_pages(piece.b);
                       progress_.add(static_cast<std::int64_t>(2 * piece.a.size()));
                       return {};
                     }));
    for (std::size_t i = 0; i < differs.size(); ++i) {
      if (differs[i]) report_.tensors[i].equal_bits = false;
    }
    return {};
  }

  Status compare_values() {
    std::vector<ValuePiece> work;
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      ComparedTensor& compared = report_.tensors[i];
      const Item &a = *pairs_[i].first, &b = *pairs_[i].second;
      if (compared.equal_bits || !compared.difference.empty()) continue;
      if (!a.has_values() || !b.has_values()) {
        compared.difference = "bytes";
        continue;
      }
      compared.compared = true;
      const auto left = matrices_of(a, b), right = matrices_of(b, a);
      for (std::size_t m = 0; m < left.size(); ++m) add_value_pieces(i, left[m], right[m], work);
    }
    std::vector<Scratch> scratch(static_cast<std::size_t>(thread_count(options_.num_threads)));
    std::vector<TensorError> errors(work.size());
    Status status =
        run_parallel(static_cast<std::int64_t>(work.size()), options_.num_threads,
                     [&](std::int64_t item, int worker) -> Status {
                       const ValuePiece& piece = work[static_cast<std::size_t>(item)];
                       Scratch& own = scratch[static_cast<std::size_t>(worker)];
                       HALFBYTE_RETURN_IF_ERROR(piece.a.read(piece.begin, piece.count, own, own.a));
                       HALFBYTE_RETURN_IF_ERROR(piece.b.read(piece.begin, piece.count, own, own.b));
                       errors[static_cast<std::size_t>(item)] = float_error(own.a, own.b, true);
                       return {};
                     });
    if (!status.ok()) return status;
    for (std::size_t i = 0; i < work.size(); ++i) {
      report_.tensors[work[i].tensor].error += errors[i];
    }
    return {};
  }

  static void add_value_pieces(std::size_t tensor, const Matrix& a, const Matrix& b,
                               std::vector<ValuePiece>& work) {
    const std::int64_t step =
        a.row_by_row() && b.row_by_row()
            ? rows_per_piece(a.columns() * static_cast<std::int64_t>(sizeof(float)))
            : std::max<std::int64_t>(1, a.rows());
    for (std::int64_t row = 0; row < a.rows(); row += step) {
      work.push_back({tensor, a, b, row, std::min(step, a.rows() - row)});
    }
  }

  const Side& a_;
  const Side& b_;
  const CompareOptions& options_;
  Progress progress_;
  CompareReport report_;
  std::vector<std::pair<const Item*, const Item*>> pairs_;
  std::vector<BytePiece> bytes_;
};

}  // namespace

bool CompareReport::equal_bits() const {
  return only_a.empty() && only_b.empty() &&
         std::all_of(tensors.begin(), tensors.end(),
                     [](const ComparedTensor& tensor) { return tensor.equal_bits; });
}

Result<CompareReport> compare_checkpoints(const fs::path& a, const fs::path& b,
                                          const CompareOptions& options) {
  Side left, right;
  HALFBYTE_RETURN_IF_ERROR(open_side(a, left));
  HALFBYTE_RETURN_IF_ERROR(open_side(b, right));
  split_stacks(left, right);
  split_stacks(right, left);
  return Comparer(left, right, options).run();
}

}  // namespace halfbyte::checkpoint
