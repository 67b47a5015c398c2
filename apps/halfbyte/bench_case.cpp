#include "apps/halfbyte/bench_case.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <utility>
#include <vector>

#include "apps/halfbyte/device_copy.h"
#include "apps/halfbyte/floor_cpu.h"
#include "apps/halfbyte/floor_cuda.h"
#include "apps/halfbyte/measure.h"
#include "apps/halfbyte/op_tensors.h"
#include "halfbyte/formats/nvfp4.h"
#include "halfbyte/formats/scale_layout.h"
#include "halfbyte/ops/quantize/quantize.h"
#include "halfbyte/ops/rmsnorm/rmsnorm.h"

namespace halfbyte::app {
namespace {

using base::DType;
using base::Result;
using base::Status;
using base::TensorView;

constexpr std::int64_t kReferenceElements = 1 << 20;  // above it the reference is not run

// `sets` copies of one tensor, one after the other, each aligned to a cache line.
class Rotation {
 public:
  static Result<Rotation> create(const TensorView& model, std::int64_t sets, base::Device device) {
    Rotation rotation;
    rotation.model_ = model;
    rotation.model_.device = device;
    rotation.bytes_ = model.numel() * base::dtype_bytes(model.dtype);
    rotation.stride_ = formats::round_up_to(rotation.bytes_, 64);
    const std::int64_t shape[] = {rotation.stride_ * sets};
    Result<OwnedTensor> slab = OwnedTensor::create(DType::kU8, shape, device);
    if (!slab.ok()) return slab.status();
    rotation.slab_ = std::move(slab).value();
    if (model.data == nullptr) return rotation;
    for (std::int64_t set = 0; set < sets; ++set) {
      const auto bytes = static_cast<std::size_t>(rotation.bytes_);
      std::byte* target = rotation.address(set);
      if (device == kHost) {
        std::memcpy(target, model.data, bytes);
      } else {
        HALFBYTE_RETURN_IF_ERROR(copy_to_device(target, model.data, bytes));
      }
    }
    return rotation;
  }

  TensorView view(std::int64_t set) const {
    TensorView view = model_;
    if (view.given) view.data = address(set);
    return view;
  }
  std::span<std::byte> bytes(std::int64_t set) const {
    return {address(set), static_cast<std::size_t>(bytes_)};
  }
  Result<std::vector<std::byte>> to_host() const {  // of set 0
    std::vector<std::byte> copy(static_cast<std::size_t>(bytes_));
    if (copy.empty()) return copy;
    if (model_.device == kHost) {
      std::memcpy(copy.data(), address(0), copy.size());
    } else {
      HALFBYTE_RETURN_IF_ERROR(copy_to_host(copy.data(), address(0), copy.size()));
    }
    return copy;
  }

 private:
  std::byte* address(std::int64_t set) const {
    return slab_.view().as<std::byte>() + set * stride_;
  }
  OwnedTensor slab_;
  TensorView model_;
  std::int64_t bytes_ = 0;
  std::int64_t stride_ = 0;
};

// The tensors of the operator, `sets` times.
struct Buffers {
  Rotation x, residual, weight, normed, codes, scales;
  float scale = 1.0f;  // given: encode for NVFP4, decode for FP8, on the host
  bool has_residual = false;
  bool has_scales = false;

  static Result<Buffers> create(const NormCase& c, float scale, std::int64_t sets,
                                base::Device device) {
    const std::int64_t rows = c.x.shape[0], columns = c.x.shape[1];
    const TensorView normed(nullptr, c.x.dtype, {rows, columns});
    const TensorView codes(nullptr, DType::kU8,
                           {rows, formats::code_bytes(c.spec.format, columns)});
    TensorView scales;
    if (formats::has_block_scales(c.spec.format)) {
      const std::int64_t scale_columns = columns / formats::block_elements(c.spec.format);
      scales = TensorView(nullptr, DType::kU8,
                          {formats::scale_bytes(c.spec.layout, rows, scale_columns)});
    }
    Buffers buffers;
    buffers.scale = scale;
    buffers.has_residual = c.residual.given;
    buffers.has_scales = scales.given;
    const std::pair<Rotation*, const TensorView*> all[] = {
        {&buffers.x, &c.x},         {&buffers.residual, &c.residual}, {&buffers.weight, &c.weight},
        {&buffers.normed, &normed}, {&buffers.codes, &codes},         {&buffers.scales, &scales}};
    for (const auto& [rotation, model] : all) {
      if (!model->given) continue;
      Result<Rotation> made = Rotation::create(*model, sets, device);
      if (!made.ok()) return made.status();
      *rotation = std::move(made).value();
    }
    return buffers;
  }

  ops::NormArgs norm_args(const NormCase& c, std::int64_t set) const {
    ops::NormArgs norm;
    norm.x = x.view(set);
    norm.weight = weight.view(set);
    norm.residual = residual.view(set);
    norm.eps = c.eps;
    return norm;
  }
  // `scale` is read at the call: `this` outlives it.
  ops::GivenScale given(const NormCase& c) const {
    const TensorView view(const_cast<float*>(&scale), DType::kF32, {1});
    ops::GivenScale given;
    if (c.spec.format == formats::Format::kNvfp4) given.global_scale = view;
    if (c.spec.format == formats::Format::kFp8) given.decode_scale = view;
    return given;
  }
  ops::QuantizeOutputs out(std::int64_t set) const {
    ops::QuantizeOutputs out;
    out.codes = codes.view(set);
    out.scales = scales.view(set);
    return out;
  }

  Status fused(const NormCase& c, const base::Execution& execution, std::int64_t set) const {
    ops::RmsNormQuantizeArgs args;
    args.norm = norm_args(c, set);
    args.given = given(c);
    args.spec = c.spec;
    args.out = out(set);
    return ops::rmsnorm_quantize(args, execution);
  }
  Status unfused(const NormCase& c, const base::Execution& execution, std::int64_t set) const {
    ops::RmsNormArgs norm;
    norm.norm = norm_args(c, set);
    norm.y = normed.view(set);
    HALFBYTE_RETURN_IF_ERROR(ops::rmsnorm(norm, execution));
    ops::QuantizeArgs quantize;
    quantize.x = norm.y;
    quantize.given = given(c);
    quantize.spec = c.spec;
    quantize.out = out(set);
    return ops::quantize(quantize, execution);
  }

  // Everything that the operator gives, one after the other.
  Result<std::vector<std::byte>> answer() const {
    std::vector<std::byte> all;
    for (const Rotation* rotation : {&codes, &scales, &residual}) {
      const Result<std::vector<std::byte>> bytes = rotation->to_host();
      if (!bytes.ok()) return bytes.status();
      all.insert(all.end(), bytes.value().begin(), bytes.value().end());
    }
    return all;
  }
  // What must be read and written: the residual is both.
  std::array<std::span<const std::byte>, 3> reads(std::int64_t set) const {
    return {x.bytes(set), residual.bytes(set), weight.bytes(set)};
  }
  std::array<std::span<std::byte>, 3> writes(std::int64_t set) const {
    return {codes.bytes(set), scales.bytes(set), residual.bytes(set)};
  }
  std::int64_t bytes_touched() const {
    std::size_t bytes = 0;
    for (const auto& span : reads(0)) bytes += span.size();
    for (const auto& span : writes(0)) bytes += span.size();
    return static_cast<std::int64_t>(bytes);
  }
};

// The fp32 scale that suits the data: from the largest magnitude of the normalised tensor.
Result<float> calibrate(const NormCase& c) {
  if (c.spec.format == formats::Format::kMxfp4) return 1.0f;
  base::Execution execution;
  execution.num_threads = c.num_threads;
  Result<Buffers> buffers = Buffers::create(c, 1.0f, 1, kHost);
  if (!buffers.ok()) return buffers.status();
  ops::RmsNormArgs norm;
  norm.norm = buffers.value().norm_args(c, 0);
  norm.y = buffers.value().normed.view(0);
  HALFBYTE_RETURN_IF_ERROR(ops::rmsnorm(norm, execution));
  float amax = 0;
  ops::AmaxArgs args;
  args.x = norm.y;
  args.amax = TensorView(&amax, DType::kF32, {1});
  HALFBYTE_RETURN_IF_ERROR(ops::amax(args, execution));
  if (!(amax > 0)) return 1.0f;
  return c.spec.format == formats::Format::kNvfp4 ? formats::kNvfp4Range / amax
                                                  : amax / formats::kE4m3Max;
}

// Fused against unfused and, on small cases, against the reference.
Status check_answer(const NormCase& c, float scale, base::Device device,
                    const base::Execution& execution, NormTiming& timing) {
  Result<Buffers> fused = Buffers::create(c, scale, 1, device);
  Result<Buffers> unfused = Buffers::create(c, scale, 1, device);
  for (const auto* buffers : {&fused, &unfused}) {
    if (!buffers->ok()) return buffers->status();
  }
  HALFBYTE_RETURN_IF_ERROR(fused.value().fused(c, execution, 0));
  HALFBYTE_RETURN_IF_ERROR(unfused.value().unfused(c, execution, 0));
  if (device != kHost) HALFBYTE_RETURN_IF_ERROR(device_synchronize());
  const auto a = fused.value().answer(), b = unfused.value().answer();
  HALFBYTE_RETURN_IF_ERROR(a.status());
  HALFBYTE_RETURN_IF_ERROR(b.status());
  timing.bytes = fused.value().bytes_touched();
  timing.bits_equal = a.value() == b.value();
  if (c.x.numel() > kReferenceElements) return {};
  Result<Buffers> reference = Buffers::create(c, scale, 1, kHost);
  if (!reference.ok()) return reference.status();
  base::Execution naive;
  naive.backend = base::Backend::kReference;
  HALFBYTE_RETURN_IF_ERROR(reference.value().fused(c, naive, 0));
  const auto expected = reference.value().answer();
  HALFBYTE_RETURN_IF_ERROR(expected.status());
  timing.bits_equal = timing.bits_equal && a.value() == expected.value();
  timing.checked_reference = true;
  return {};
}

// The kernel's figure first: in a virtual machine sysconf may give the whole socket's.
std::int64_t last_level_cache_bytes() {
  constexpr std::int64_t kUnknown = 32 << 20, kMost = 512 << 20;
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
  std::int64_t kib = 0;
  if (file >> kib && kib > 0) return std::min(kib * 1024, kMost);
  const auto bytes = static_cast<std::int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE));
  return bytes > 0 ? std::min(bytes, kMost) : kUnknown;
}

std::int64_t sets_beyond(std::int64_t cache_bytes, std::int64_t bytes) {
  return std::max<std::int64_t>(1,
                                (3 * cache_bytes + bytes - 1) / std::max<std::int64_t>(bytes, 1));
}

// The fastest way to move the bytes: 1, 2, 4 .. threads, plain or streaming stores.
FloorVariant best_floor(const Buffers& buffers, std::int64_t sets, int threads) {
  std::vector<FloorVariant> variants;
  for (int n = 1; n < 2 * threads; n *= 2) {
    for (const bool streaming : {false, true})
      variants.push_back({std::min(n, threads), streaming});
  }
  std::vector<TimedCall> candidates;
  for (const FloorVariant variant : variants) {
    candidates.push_back([&buffers, sets, variant](std::int64_t call) {
      stream_floor(buffers.reads(call % sets), buffers.writes(call % sets), variant);
    });
  }
  const std::vector<double> times = median_us(candidates, 5);
  return variants[static_cast<std::size_t>(std::min_element(times.begin(), times.end()) -
                                           times.begin())];
}

Status measure_cpu(const NormCase& c, float scale, const base::Execution& execution,
                   NormTiming& timing) {
  const std::int64_t sets = sets_beyond(last_level_cache_bytes(), timing.bytes);
  const Result<Buffers> made = Buffers::create(c, scale, sets, kHost);
  if (!made.ok()) return made.status();
  const Buffers& buffers = made.value();
  const FloorVariant floor = best_floor(buffers, sets, resolved_threads(c.num_threads));
  Status first_error;
  const auto keep = [&](const Status& status) {
    if (first_error.ok()) first_error = status;
  };
  const TimedCall candidates[] = {
      [&](std::int64_t call) { keep(buffers.fused(c, execution, call % sets)); },
      [&](std::int64_t call) { keep(buffers.unfused(c, execution, call % sets)); },
      [&](std::int64_t call) {
        stream_floor(buffers.reads(call % sets), buffers.writes(call % sets), floor);
      }};
  const std::vector<double> times = median_us(candidates);
  HALFBYTE_RETURN_IF_ERROR(first_error);
  timing.fused_us = times[0];
  timing.unfused_us = times[1];
  timing.floor_us = times[2];
  return {};
}

Status measure_cuda(const NormCase& c, float scale, base::Execution execution, NormTiming& timing) {
  constexpr int kCalls = 20, kReplays = 11;
  const auto l2 = static_cast<std::int64_t>(device_l2_bytes());
  const std::int64_t sets = sets_beyond(l2, timing.bytes);
  const Result<Buffers> made = Buffers::create(c, scale, sets, kCudaDevice);
  if (!made.ok()) return made.status();
  const int calls =
      static_cast<int>(std::max<std::int64_t>(kCalls, std::min<std::int64_t>(sets, 256)));
  const auto time = [&](auto run, double& us) -> Status {
    const Result<double> timed = time_on_device(
        [&](void* stream, int call) {
          execution.stream = stream;
          return run(call % sets);
        },
        calls, kReplays);
    if (timed.ok()) us = timed.value();
    return timed.status();
  };
  const Buffers& buffers = made.value();
  HALFBYTE_RETURN_IF_ERROR(
      time([&](std::int64_t set) { return buffers.fused(c, execution, set); }, timing.fused_us));
  HALFBYTE_RETURN_IF_ERROR(time(
      [&](std::int64_t set) { return buffers.unfused(c, execution, set); }, timing.unfused_us));
  for (const CudaFloorVariant variant : cuda_floor_variants()) {
    double us = 0;
    HALFBYTE_RETURN_IF_ERROR(time(
        [&](std::int64_t set) {
          return cuda_stream_floor(buffers.reads(set), buffers.writes(set), variant,
                                   execution.stream);
        },
        us));
    timing.floor_us = std::min(us, timing.floor_us.value_or(us));
  }
  return {};
}

}  // namespace

int resolved_threads(int num_threads) {
  return num_threads > 0 ? num_threads : omp_get_max_threads();
}

Result<NormTiming> measure_norm_quantize(const NormCase& c) {
  base::Execution execution;
  execution.backend = c.backend;
  execution.num_threads = c.num_threads;
  const bool cuda = c.backend == base::Backend::kCuda;
  const Result<float> scale = calibrate(c);
  if (!scale.ok()) return scale.status();
  NormTiming timing;
  HALFBYTE_RETURN_IF_ERROR(
      check_answer(c, scale.value(), cuda ? kCudaDevice : kHost, execution, timing));
  HALFBYTE_RETURN_IF_ERROR(cuda ? measure_cuda(c, scale.value(), execution, timing)
                                : measure_cpu(c, scale.value(), execution, timing));
  return timing;
}

}  // namespace halfbyte::app
