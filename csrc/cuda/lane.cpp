#include "cuda/lane.h"

#include <algorithm>
#include <utility>

namespace radixkv::cuda {
namespace {

// Where the driver's queues are full it blocks, and holds up whoever launches the model's kernels:
// with 128 parts a launch waited 25 ms. So a large transfer is never queued whole; 16 parts of 8
// MiB last 2.4 ms.
constexpr std::size_t kMaxQueuedParts = 16;

}  // namespace

Lane::Lane(const DeviceEngine& engine, Direction direction, const LaneOptions& options,
           ChoosePath choose)
    : engine_(engine),
      direction_(direction),
      options_(options),
      choose_(std::move(choose)),
      ring_(options.max_tokens),
      slab_memory_(make_device_array<std::byte>(
          static_cast<std::size_t>(options.slab_bytes * options.num_slabs))),
      slabs_(static_cast<std::size_t>(options.num_slabs)),
      flights_(static_cast<std::size_t>(options.max_in_flight)) {
  std::byte* data = slab_memory_.get();
  for (Slab& slab : slabs_) {
    slab.data = data;
    data += options.slab_bytes;
  }
  for (std::size_t i = 0; i < kMaxQueuedParts; ++i)
    parts_done_.emplace_back(Event::Waiting::kSleep);
  for (Flight& flight : flights_) {
    flight.layers = std::vector<Event>(static_cast<std::size_t>(engine.num_layers()));
  }
  thread_ = std::thread(&Lane::work, this);
}

Lane::~Lane() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
  drain();
}

std::optional<std::int64_t> Lane::submit(const Slices& slices, cudaStream_t fence) {
  const std::lock_guard lock(mutex_);
  retire();
  if (next_ - oldest_ == options_.max_in_flight) return std::nullopt;
  const auto table = ring_.take(slices.num_tokens());
  if (!table) return std::nullopt;

  Flight& flight = place(next_);
  flight.fence.record(fence);
  flight.number = next_;
  flight.arrays = slices;
  flight.table = *table;
  flight.queued_layers = 0;
  flight.failure = nullptr;
  changed_.notify_all();
  return next_++;
}

void Lane::hold_for_layer(std::int64_t number, std::int32_t layer, cudaStream_t stream) {
  std::unique_lock lock(mutex_);
  const Flight* flight = find_queued(&lock, number, layer);
  if (flight == nullptr) return;
  const std::int32_t group = flight->group_layers;
  const std::int32_t last = std::min((layer / group + 1) * group, engine_.num_layers()) - 1;
  flight->layers[static_cast<std::size_t>(last)].hold(stream);
}

bool Lane::is_done(std::int64_t number) {
  std::unique_lock lock(mutex_);
  const Flight& flight = place(number);
  if (flight.number == number && flight.queued_layers < engine_.num_layers()) return false;
  const Flight* queued = find_queued(&lock, number, engine_.num_layers() - 1);
  return queued == nullptr || queued->layers.back().reached();
}

void Lane::wait(std::int64_t number) {
  std::unique_lock lock(mutex_);
  const Flight* flight = find_queued(&lock, number, engine_.num_layers() - 1);
  if (flight == nullptr) return;
  lock.unlock();  // should the place be used again meanwhile, this waits too long, not too short
  flight->layers.back().wait();
}

std::optional<Path> Lane::path(std::int64_t number) {
  std::unique_lock lock(mutex_);
  const Flight* flight = find_queued(&lock, number, engine_.num_layers() - 1);
  return flight == nullptr ? std::nullopt : std::optional(flight->path);
}

Lane::Flight& Lane::place(std::int64_t number) {
  return flights_[static_cast<std::size_t>(number % options_.max_in_flight)];
}

// The flight once this layer is queued; null if its place was used again, so that it is done.
Lane::Flight* Lane::find_queued(std::unique_lock<std::mutex>* lock, std::int64_t number,
                                std::int32_t layer) {
  Flight& flight = place(number);
  changed_.wait(*lock, [&] { return flight.number != number || flight.queued_layers > layer; });
  if (flight.number != number) return nullptr;
  if (flight.failure) std::rethrow_exception(flight.failure);
  return &flight;
}

void Lane::retire() {
  for (; oldest_ < queued_; ++oldest_) {
    const Flight& flight = place(oldest_);
    if (!flight.failure && !flight.layers.back().reached()) return;
    ring_.give_back(flight.table + flight.arrays.num_tokens());
  }
}

void Lane::drain() {
  static_cast<void>(cudaStreamSynchronize(copy_stream_.get()));
  static_cast<void>(cudaStreamSynchronize(kernel_stream_.get()));
}

void Lane::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || queued_ < next_; });
    if (queued_ == next_) return;
    Flight& flight = place(queued_);
    lock.unlock();
    std::exception_ptr failure;
    try {
      queue(&flight);
    } catch (...) {
      failure = std::current_exception();
      drain();  // some of it may be queued: it must be over before its table and slabs are used
                // again
      batch_.clear();
    }
    lock.lock();
    flight.failure = failure;
    flight.queued_layers = engine_.num_layers();
    ++queued_;
    changed_.notify_all();
  }
}

}  // namespace radixkv::cuda
