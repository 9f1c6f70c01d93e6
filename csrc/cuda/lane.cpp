#include "cuda/lane.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace radixkv::cuda {
namespace {

constexpr auto kSpinning = std::chrono::microseconds(300);  // about what a chunk takes
constexpr auto kNap = std::chrono::microseconds(20);

}  // namespace

Lane::Lane(const DeviceEngine& engine, Direction direction, const LaneOptions& options,
           ChoosePath choose)
    : engine_(engine),
      direction_(direction),
      options_(options),
      choose_(std::move(choose)),
      slots_(make_pinned_array<std::int64_t>(static_cast<std::size_t>(options.max_tokens))),
      slots_read_(Event::Waiting::kSleep),
      pauses_(options.pause_bytes),
      ring_(options.max_tokens),
      slab_memory_(make_device_array<std::byte>(
          static_cast<std::size_t>(options.slab_bytes * options.num_slabs))),
      slabs_(static_cast<std::size_t>(options.num_slabs)),
      queued_parts_(kMaxQueuedParts),
      flights_(static_cast<std::size_t>(options.max_in_flight)) {
  std::byte* data = slab_memory_.get();
  for (Slab& slab : slabs_) {
    slab.data = data;
    data += options.slab_bytes;
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
  Flight& flight = place(next_);
  flight.fence.record(fence);  // before room is taken: a stream that is none throws
  if (slices.device_slots) flight.slots_made.record(slices.device_slots->stream);
  const auto table = ring_.take(slices.num_tokens());
  if (!table) return std::nullopt;

  flight.number = next_;
  flight.arrays = slices;
  flight.device_slots = slices.device_slots;
  flight.table = *table;
  changed_.notify_all();
  return next_++;
}

bool Lane::hold_for_layer(std::int64_t number, std::int32_t layer, cudaStream_t stream) {
  const std::uint64_t count = count_at(number, layer + 1);
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return queued_count_ >= count; });
    if (failures_.contains(number)) return false;
  }
  progress_.hold(stream, count);  // should it fail now, the count is set all the same
  return true;
}

bool Lane::is_done(std::int64_t number) {
  const std::lock_guard lock(mutex_);
  const auto failure = failures_.find(number);
  if (failure != failures_.end()) std::rethrow_exception(failure->second);
  return progress_.reached(count_at_end(number));
}

void Lane::wait(std::int64_t number) {
  await(count_at_end(number));
  path(number);  // its place is free from then on
  is_done(number);
}

std::optional<Path> Lane::path(std::int64_t number) {
  std::unique_lock lock(mutex_);
  const Flight& flight = place(number);
  changed_.wait(lock, [&] { return flight.number != number || queued_ > number; });
  return flight.number == number ? std::optional(flight.path) : std::nullopt;
}

Lane::Flight& Lane::place(std::int64_t number) {
  return flights_[static_cast<std::size_t>(number % options_.max_in_flight)];
}

// What the progress is when so many layers of a transfer are done.
std::uint64_t Lane::count_at(std::int64_t number, std::int32_t num_layers) const {
  return static_cast<std::uint64_t>(number * engine_.num_layers() + num_layers);
}

std::uint64_t Lane::count_at_end(std::int64_t number) const {
  return count_at(number, engine_.num_layers());
}

void Lane::await(std::uint64_t count) {
  const auto begin = std::chrono::steady_clock::now();
  while (!progress_.reached(count)) {
    if (std::chrono::steady_clock::now() - begin < kSpinning) continue;
    const cudaError_t status = cudaStreamQuery(kernel_stream_.get());  // or it would wait for good
    if (status != cudaErrorNotReady) RADIXKV_CUDA_CHECK(status);
    std::this_thread::sleep_for(kNap);
  }
}

void Lane::retire() {
  for (; oldest_ < queued_ && progress_.reached(count_at_end(oldest_)); ++oldest_) {
    const Flight& flight = place(oldest_);
    ring_.give_back(flight.table + flight.arrays.num_tokens());
  }
}

void Lane::drain() {
  static_cast<void>(cudaStreamSynchronize(copy_stream_.get()));
  static_cast<void>(cudaStreamSynchronize(kernel_stream_.get()));
  static_cast<void>(cudaStreamSynchronize(slots_stream_.get()));
}

void Lane::work() {
  // For good: to go back to the device before would make a context there.
  static_cast<void>(cudaSetDevice(engine_.device()));
  // A graph that another thread captures is none of this thread's business.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode));

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
    if (failure) {
      failures_.emplace(flight.number, failure);
      progress_.set(count_at_end(flight.number));  // whoever holds for it must go on
    }
    queued_count_ = count_at_end(flight.number);
    ++queued_;
    changed_.notify_all();
  }
}

void Lane::publish(std::uint64_t queued_count) {
  const std::lock_guard lock(mutex_);
  queued_count_ = queued_count;
  changed_.notify_all();
}

}  // namespace radixkv::cuda
