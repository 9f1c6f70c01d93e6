// The lane's thread: how the bytes of one transfer are queued, path by path.
#include <algorithm>

#include "cuda/lane.h"

namespace radixkv::cuda {
namespace {

// Between two launches the bus idles for some 6 µs, in which it could move 320 KiB: small layers go
// together.
constexpr std::int64_t kMinLaunchBytes = std::int64_t{2} << 20;

std::int32_t longest_slice(const CopyParams& params) {
  return *std::max_element(params.count, params.count + params.num_slices);
}

}  // namespace

void Lane::queue(Flight* flight) {
  CopyParams params = engine_.layout().params();
  flight->arrays.fill(&params);
  if (flight->device_slots) params.slots = read_slots(flight);
  const std::int64_t num_tokens = flight->arrays.num_tokens();
  const bool fits_slab = longest_slice(params) * engine_.layer_bytes() <= options_.slab_bytes;
  flight->path = fits_slab ? choose_(num_tokens * engine_.token_bytes()) : Path::kKernel;
  flight->group_layers = group_layers(params, num_tokens, flight->path);
  flight->fence.hold(kernel_stream_.get());  // the copy engine touches chunks and slabs alone
  const Transfer transfer{params, num_tokens, *flight};
  if (flight->path == Path::kKernel) {
    run_kernel(transfer);
  } else {
    run_staged(transfer);
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
  const std::int32_t end =
      std::min(first_layer + transfer.flight.group_layers, engine_.num_layers());
  const std::int32_t num_kv = engine_.num_kv();
  return {first_layer * num_kv, end * num_kv, transfer.flight.group_layers * num_kv};
}

// All counts of a lane are written on one stream, so that they only grow.
void Lane::end_group(const Transfer& transfer, const RowGroup& rows) {
  const std::int64_t number = transfer.flight.number;
  if (direction_ == Direction::kLoad) {
    const std::uint64_t count = count_at(number, rows.end / engine_.num_kv());
    progress_.write(kernel_stream_.get(), count);
    publish(count);
  } else if (rows.end == engine_.num_rows()) {
    if (transfer.flight.path == Path::kKernel) {
      sorted_.record(kernel_stream_.get());
      sorted_.hold(copy_stream_.get());
    }
    progress_.write(copy_stream_.get(), count_at_end(number));
  }
}

// Slots that only the device knew, on the host and checked.
const std::int64_t* Lane::read_slots(Flight* flight) {
  flight->slots_made.hold(slots_stream_.get());
  std::size_t num_slots = 0;
  for (const DeviceSlots::Part& part : flight->device_slots->parts) {
    const auto count = static_cast<std::size_t>(part.num_slots);
    RADIXKV_CUDA_CHECK(cudaMemcpyAsync(slots_.get() + num_slots, part.address,
                                       count * sizeof(std::int64_t), cudaMemcpyDeviceToHost,
                                       slots_stream_.get()));
    num_slots += count;
  }
  slots_read_.record(slots_stream_.get());
  slots_read_.wait();
  check_slots({slots_.get(), num_slots}, engine_.layout().num_slots);
  return slots_.get();
}

KernelParams Lane::kernel_params(const Transfer& transfer, const RowGroup& rows) const {
  KernelParams kernel{};
  kernel.rows = engine_.rows();
  kernel.tokens = ring_.device(transfer.flight.table);
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
  write_direct_tokens(transfer.params, ring_.host(transfer.flight.table, transfer.num_tokens));
  ring_.upload(transfer.flight.table, transfer.num_tokens, stream);
  for (std::int32_t layer = 0; layer < engine_.num_layers();
       layer += transfer.flight.group_layers) {
    const RowGroup rows = group(transfer, layer);
    launch_copy(kernel_params(transfer, rows), direction_, width, options_.max_blocks, stream);
    end_group(transfer, rows);
  }
}

void Lane::run_staged(const Transfer& transfer) {
  const bool is_load = direction_ == Direction::kLoad;
  const std::int32_t group_rows = transfer.flight.group_layers * engine_.num_kv();
  plan_parts(transfer.params, group_rows, options_.slab_bytes, &parts_);
  write_staged_tokens(transfer.params, parts_, group_rows,
                      ring_.host(transfer.flight.table, transfer.num_tokens));
  // A load's kernels come after slabs that are filled after the table.
  ring_.upload(transfer.flight.table, transfer.num_tokens,
               is_load ? copy_stream_.get() : kernel_stream_.get());
  for (std::int32_t layer = 0; layer < engine_.num_layers();
       layer += transfer.flight.group_layers) {
    const RowGroup rows = group(transfer, layer);
    for (const Part& part : parts_) move_part(transfer, part, rows);
    end_group(transfer, rows);
  }
}

void Lane::move_part(const Transfer& transfer, const Part& part, const RowGroup& rows) {
  const bool is_load = direction_ == Direction::kLoad;
  const cudaStream_t filling = is_load ? copy_stream_.get() : kernel_stream_.get();
  const cudaStream_t draining = is_load ? kernel_stream_.get() : copy_stream_.get();
  Slab& slab = slabs_[next_part_ % slabs_.size()];
  QueuedPart& queued = next_part();

  const auto copy = [&] {
    const std::int64_t num_bytes = part.num_tokens * (rows.end - rows.begin) * engine_.row_bytes();
    pauses_.before_copy(num_bytes, copy_stream_.get());
    add_slab_runs(transfer.params, part, rows, slab.data, direction_, &batch_);
    queued.num_copies = batch_.submit(copy_stream_.get());
    num_queued_copies_ += queued.num_copies;
  };
  const auto sort = [&] {
    KernelParams kernel = kernel_params(transfer, rows);
    kernel.tokens += part.token_begin;
    kernel.num_tokens = part.num_tokens;
    kernel.stored = reinterpret_cast<std::uintptr_t>(slab.data);
    kernel.row_origin = rows.begin;
    launch_copy(kernel, direction_, engine_.vector_bytes(), options_.sort_blocks,
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
  queued.done.record(draining);
}

// Waits until the driver has room for a part more.
Lane::QueuedPart& Lane::next_part() {
  while (next_part_ - oldest_part_ == queued_parts_.size() ||
         num_queued_copies_ >= kMaxQueuedCopies) {
    const QueuedPart& oldest = queued_parts_[oldest_part_++ % queued_parts_.size()];
    oldest.done.wait();
    num_queued_copies_ -= oldest.num_copies;
  }
  QueuedPart& next = queued_parts_[next_part_++ % queued_parts_.size()];
  next.num_copies = 0;  // until they are queued
  return next;
}

}  // namespace radixkv::cuda
