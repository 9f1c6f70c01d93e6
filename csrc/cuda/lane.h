// A lane carries transfers of one direction: its own streams, slabs, events and tables, all made at
// start.
//
//   kernel    kernel stream  [fence] [table] [rows of group 0] [group 1] …
//   staged    copy stream    [table] [slab 0] [slab 1] [slab 2] …
//             kernel stream  [fence]         [slab 0 → engine] [slab 1 → engine] …
//
// These are loads; a store goes the other way. A group is one layer, or as many as make a launch
// worth its price. After each group of a load, and at the end of a store, the lane's progress
// counts on: by the layers of all transfers before, and those of this one.
//
// Queueing gigabytes takes the CPU milliseconds. A thread of the lane does it, so that submit()
// costs the caller microseconds; who holds for a layer waits until that layer is queued, not until
// it is there. Nothing here synchronises the device or allocates on it after construction.
//
// Thread safety: any threads.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <unordered_map>
#include <vector>

#include "cuda/copy_batch.h"
#include "cuda/copy_plan.h"
#include "cuda/device_engine.h"
#include "cuda/pauses.h"
#include "cuda/progress.h"
#include "cuda/token_ring.h"

namespace radixkv::cuda {

// How bytes move.
enum class Path {
  kKernel,  // the kernel reads and writes pinned memory itself: few bytes soonest
  kStaged,  // the copy engine moves stored runs, the kernel sorts rows on the device: many bytes
};

struct LaneOptions {
  // Multiprocessors that the kernel may take: few while it uses the bus, which needs no more, and
  // all of them, for a moment, while it sorts a slab. With 4 for that, products of matrices on all
  // the others waited for these: decode steps beside a store took 12 % longer, in place of 5.
  int max_blocks = 4;
  int sort_blocks = 128;
  std::int64_t slab_bytes = std::int64_t{32} << 20;  // larger ones take fewer calls of the driver
  int num_slabs = 3;
  std::int64_t pause_bytes = std::int64_t{64} << 20;  // 1.2 ms of the bus; a pause costs 1 % of it
  int max_in_flight = 32;
  std::int64_t max_tokens = 262144;  // in flight together, and at most in one transfer
};

// Picks a path for a transfer of so many bytes.
using ChoosePath = std::function<Path(std::int64_t num_bytes)>;

class Lane {
 public:
  // `engine` outlives the lane. `choose` is called from the lane's thread; what it gives is
  // replaced by the kernel where it cannot be taken.
  Lane(const DeviceEngine& engine, Direction direction, const LaneOptions& options,
       ChoosePath choose);
  ~Lane();

  // Takes a transfer, to begin after what is on `fence` now, and gives its number; nothing while
  // too much is in flight. REQUIRES: slices are checked and have at most max_tokens.
  std::optional<std::int64_t> submit(const Slices& slices, cudaStream_t fence);

  // What is queued on `stream` from now on begins after this layer of a load, or the last one of a
  // store. False if the transfer failed.
  bool hold_for_layer(std::int64_t number, std::int32_t layer, cudaStream_t stream);
  bool is_done(std::int64_t number);
  void wait(std::int64_t number);
  // Waits until the transfer is queued. The path of one whose place was used again is unknown.
  std::optional<Path> path(std::int64_t number);

 private:
  // Where the driver's queues are full it blocks, and holds up whoever launches the model's
  // kernels: with 64 parts queued a launch took 0.7 ms on an H200, with 32 still 20 µs, as with
  // none. So a large transfer is never queued whole.
  static constexpr std::size_t kMaxQueuedParts = 24;  // of 32 MiB: 14 ms of the bus
  static constexpr std::size_t kMaxQueuedCopies = 2048;

  // What is known of transfer `number` until its place is used again.
  struct Flight {
    std::int64_t number = -1;
    SliceArrays arrays;
    Event fence;
    std::optional<DeviceSlots> device_slots;
    Event slots_made;
    std::int64_t table = 0;  // position in the ring
    Path path = Path::kKernel;
    std::int32_t group_layers = 1;
  };
  struct Slab {
    std::byte* data = nullptr;
    Event filled, drained;
  };
  // A part that the driver knows of.
  struct QueuedPart {
    Event done{Event::Waiting::kSleep};
    std::size_t num_copies = 0;
  };
  struct Transfer {
    const CopyParams& params;
    std::int64_t num_tokens;
    Flight& flight;
  };

  Flight& place(std::int64_t number);
  std::uint64_t count_at(std::int64_t number, std::int32_t num_layers) const;
  std::uint64_t count_at_end(std::int64_t number) const;
  void await(std::uint64_t count);
  void retire();
  void drain();  // waits for all streams
  void work();
  void publish(std::uint64_t queued_count);
  void queue(Flight* flight);
  const std::int64_t* read_slots(Flight* flight);
  std::int32_t group_layers(const CopyParams& params, std::int64_t num_tokens, Path path) const;
  RowGroup group(const Transfer& transfer, std::int32_t first_layer) const;
  void end_group(const Transfer& transfer, const RowGroup& rows);
  void run_kernel(const Transfer& transfer);
  void run_staged(const Transfer& transfer);
  void move_part(const Transfer& transfer, const Part& part, const RowGroup& rows);
  QueuedPart& next_part();
  KernelParams kernel_params(const Transfer& transfer, const RowGroup& rows) const;

  const DeviceEngine& engine_;
  const Direction direction_;
  const LaneOptions options_;
  const ChoosePath choose_;

  Progress progress_;

  // The lane's thread alone, after construction.
  Stream kernel_stream_;
  Stream copy_stream_;
  Stream slots_stream_;
  PinnedArray<std::int64_t> slots_;  // of the transfer that is being queued
  Event slots_read_, sorted_;
  Pauses pauses_;
  TokenRing ring_;  // its room is handed out under mutex_
  DeviceArray<std::byte> slab_memory_;
  std::vector<Slab> slabs_;
  std::vector<QueuedPart> queued_parts_;  // a ring of what may not be done: oldest … next - 1
  std::size_t oldest_part_ = 0;
  std::size_t next_part_ = 0;
  std::size_t num_queued_copies_ = 0;  // of those
  std::vector<Part> parts_;
  CopyBatch batch_;

  // Under mutex_: flights oldest_ … queued_ - 1 are on their way, queued_ … next_ - 1 wait for the
  // thread. Those before oldest_ are done and their tables free.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Flight> flights_;
  std::int64_t oldest_ = 0;
  std::int64_t queued_ = 0;
  std::int64_t next_ = 0;
  std::uint64_t queued_count_ = 0;  // what the progress will reach by what is queued
  std::unordered_map<std::int64_t, std::exception_ptr> failures_;  // of transfers, for good
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace radixkv::cuda
