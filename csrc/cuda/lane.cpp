#include "cuda/lane.h"

#include <algorithm>

namespace radixkv::cuda {
namespace {

// Between two launches the bus idles for some 6 µs, in which it could move 320 KiB: small layers go
// together.
constexpr std::int64_t kMinLaunchBytes = std::int64_t{2} << 20;

std::int32_t longest_slice(const CopyParams& params) {
  return *std::max_element(params.count, params.count + params.num_slices);
}

}  // namespace

Lane::Lane(const DeviceEngine& engine, Direction direction, const LaneOptions& options)
    : engine_(engine),
      direction_(direction),
      options_(options),
      ring_(options.max_tokens),
      slab_memory_(make_device_array<std::byte>(
          static_cast<std::size_t>(options.slab_bytes * options.num_slabs))),
      slabs_(static_cast<std::size_t>(options.num_slabs)),
      flights_(std::make_unique<Flight[]>(static_cast<std::size_t>(options.max_in_flight))) {
  std::byte* data = slab_memory_.get();
  for (Slab& slab : slabs_) {
    slab.data = data;
    data += options.slab_bytes;
  }
  for (int i = 0; i < options.max_in_flight; ++i) {
    flights_[static_cast<std::size_t>(i)].layers =
        std::vector<Event>(static_cast<std::size_t>(engine.num_layers()));
  }
}

Lane::~Lane() { drain(); }

std::optional<std::int64_t> Lane::submit(const CopyParams& params, std::int64_t num_tokens,
                                         std::span<const CopyRun> runs, Path path,
                                         cudaStream_t fence) {
  retire();
  if (next_ - oldest_ == options_.max_in_flight) return std::nullopt;
  const auto table = ring_.take(path == Path::kEngine ? 0 : num_tokens);
  if (!table) return std::nullopt;

  Flight& flight = flights_[static_cast<std::size_t>(next_ % options_.max_in_flight)];
  const std::int32_t layers = group_layers(params, num_tokens, path);
  flight.number = -1;
  flight.group_layers = layers;
  flight.table_end = *table + (path == Path::kEngine ? 0 : num_tokens);
  try {
    fence_.record(fence);
    fence_.hold(path == Path::kEngine ? copy_stream_.get() : kernel_stream_.get());
    run({params, runs, num_tokens, *table, layers, flight}, path);
  } catch (...) {
    drain();  // some of it may be queued: it must be over before its table and slabs are used again
    batch_.clear();
    ring_.give_back(flight.table_end);
    throw;
  }
  flight.number = next_;
  return next_++;
}

bool Lane::can_take(Path path, const CopyParams& params) const {
  if (path == Path::kEngine) return engine_.is_dense();
  if (path == Path::kKernel) return true;
  return longest_slice(params) * engine_.layer_bytes() <= options_.slab_bytes;
}

void Lane::hold_for_layer(std::int64_t number, std::int32_t layer, cudaStream_t stream) const {
  const Flight& flight = flights_[static_cast<std::size_t>(number % options_.max_in_flight)];
  if (flight.number != number) return;  // its place has been used again, so it is done
  const std::int32_t group = flight.group_layers;
  const std::int32_t last = std::min((layer / group + 1) * group, engine_.num_layers()) - 1;
  flight.layers[static_cast<std::size_t>(last)].hold(stream);
}

bool Lane::is_done(std::int64_t number) const {
  const Flight& flight = flights_[static_cast<std::size_t>(number % options_.max_in_flight)];
  return flight.number != number || flight.layers.back().reached();
}

void Lane::wait(std::int64_t number) const {
  const Flight& flight = flights_[static_cast<std::size_t>(number % options_.max_in_flight)];
  if (flight.number == number) flight.layers.back().wait();
}

void Lane::drain() {
  static_cast<void>(cudaStreamSynchronize(copy_stream_.get()));
  static_cast<void>(cudaStreamSynchronize(kernel_stream_.get()));
}

void Lane::retire() {
  while (oldest_ < next_ && is_done(oldest_)) {
    ring_.give_back(flights_[static_cast<std::size_t>(oldest_ % options_.max_in_flight)].table_end);
    ++oldest_;
  }
}

std::int32_t Lane::group_layers(const CopyParams& params, std::int64_t num_tokens,
                                Path path) const {
  // Nobody waits for a layer of a store, so its kernel does all in one launch.
  if (direction_ == Direction::kStore && path == Path::kKernel) return engine_.num_layers();
  std::int64_t layers = (kMinLaunchBytes - 1) / (num_tokens * engine_.layer_bytes()) + 1;
  if (path == Path::kStaged) {
    const std::int64_t slice_bytes = longest_slice(params) * engine_.layer_bytes();
    // Long runs for the copy engine; a store of few tokens still goes in several pieces.
    if (direction_ == Direction::kStore) layers = std::max(layers, kMinLaunchBytes / slice_bytes);
    layers = std::min(layers, options_.slab_bytes / slice_bytes);
  }
  return static_cast<std::int32_t>(std::min<std::int64_t>(layers, engine_.num_layers()));
}

RowGroup Lane::group(const Transfer& transfer, std::int32_t first_layer) const {
  const std::int32_t end = std::min(first_layer + transfer.group_layers, engine_.num_layers());
  const std::int32_t num_kv = engine_.num_kv();
  return {first_layer * num_kv, end * num_kv, transfer.group_layers * num_kv};
}

void Lane::end_group(const Transfer& transfer, const RowGroup& rows, cudaStream_t stream) {
  const std::int32_t last_layer = rows.end / engine_.num_kv() - 1;
  if (direction_ == Direction::kLoad || rows.end == engine_.num_rows()) {
    transfer.flight.layers[static_cast<std::size_t>(last_layer)].record(stream);
  }
}

void Lane::run(const Transfer& transfer, Path path) {
  switch (path) {
    case Path::kKernel:
      return run_kernel(transfer);
    case Path::kEngine:
      return run_engine(transfer);
    case Path::kStaged:
      return run_staged(transfer);
  }
}

KernelParams Lane::kernel_params(const Transfer& transfer, const RowGroup& rows) const {
  KernelParams kernel{};
  kernel.rows = engine_.rows();
  kernel.tokens = ring_.device(transfer.table);
  kernel.num_tokens = static_cast<std::int32_t>(transfer.num_tokens);
  kernel.row_begin = rows.begin;
  kernel.row_end = rows.end;
  kernel.row_bytes = static_cast<std::int32_t>(engine_.row_bytes());
  kernel.piece_bytes = static_cast<std::int32_t>(engine_.piece_bytes());
  return kernel;
}

void Lane::run_kernel(const Transfer& transfer) {
  const cudaStream_t stream = kernel_stream_.get();
  const int width = vector_bytes(transfer.params, engine_.vector_bytes());
  write_direct_tokens(transfer.params, ring_.host(transfer.table, transfer.num_tokens));
  ring_.upload(transfer.table, transfer.num_tokens, stream);
  for (std::int32_t layer = 0; layer < engine_.num_layers(); layer += transfer.group_layers) {
    const RowGroup rows = group(transfer, layer);
    launch_copy(kernel_params(transfer, rows), direction_, width, options_.max_blocks, stream);
    end_group(transfer, rows, stream);
  }
}

void Lane::run_engine(const Transfer& transfer) {
  for (std::int32_t layer = 0; layer < engine_.num_layers(); layer += transfer.group_layers) {
    const RowGroup rows = group(transfer, layer);
    add_engine_runs(transfer.params, transfer.runs, rows, direction_, &batch_);
    batch_.submit(copy_stream_.get());
    end_group(transfer, rows, copy_stream_.get());
  }
}

void Lane::run_staged(const Transfer& transfer) {
  const bool is_load = direction_ == Direction::kLoad;
  const std::int32_t group_rows = transfer.group_layers * engine_.num_kv();
  plan_parts(transfer.params, group_rows, options_.slab_bytes, &parts_);
  write_staged_tokens(transfer.params, parts_, group_rows,
                      ring_.host(transfer.table, transfer.num_tokens));
  // A load's kernels come after slabs that are filled after the table.
  ring_.upload(transfer.table, transfer.num_tokens,
               is_load ? copy_stream_.get() : kernel_stream_.get());
  for (std::int32_t layer = 0; layer < engine_.num_layers(); layer += transfer.group_layers) {
    const RowGroup rows = group(transfer, layer);
    for (const Part& part : parts_) move_part(transfer, part, rows);
    end_group(transfer, rows, is_load ? kernel_stream_.get() : copy_stream_.get());
  }
}

void Lane::move_part(const Transfer& transfer, const Part& part, const RowGroup& rows) {
  const bool is_load = direction_ == Direction::kLoad;
  const cudaStream_t filling = is_load ? copy_stream_.get() : kernel_stream_.get();
  const cudaStream_t draining = is_load ? kernel_stream_.get() : copy_stream_.get();
  Slab& slab = slabs_[next_slab_++ % slabs_.size()];

  const auto copy = [&] {
    add_slab_runs(transfer.params, part, rows, slab.data, direction_, &batch_);
    batch_.submit(copy_stream_.get());
  };
  const auto sort = [&] {
    KernelParams kernel = kernel_params(transfer, rows);
    kernel.tokens += part.token_begin;
    kernel.num_tokens = part.num_tokens;
    kernel.stored = reinterpret_cast<std::uintptr_t>(slab.data);
    kernel.row_origin = rows.begin;
    launch_copy(kernel, direction_, engine_.vector_bytes(), options_.max_blocks,
                kernel_stream_.get());
  };

  slab.drained.hold(filling);
  if (is_load) {
    copy();
  } else {
    sort();
  }
  slab.filled.record(filling);
  slab.filled.hold(draining);
  if (is_load) {
    sort();
  } else {
    copy();
  }
  slab.drained.record(draining);
}

}  // namespace radixkv::cuda
