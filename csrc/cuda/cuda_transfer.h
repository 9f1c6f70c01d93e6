// CudaTransfer moves KV between pinned chunks and one engine's memory on a GPU, beside the running
// model.
//
//   t = load(slices, forward_stream)     queued as one call for all layers; begins after what
//                                        the engine's stream holds
//   for each layer of the next forward:
//     hold_for_layer(t, layer, forward_stream), then attention reads it
//   is_done(t)                           the chunks may be evicted again
//
// A store is the same the other way and has no layers to wait for: its chunks are whole, and the
// engine's slots may be used again, when is_done() says so; hold_for_end() lets a stream use them
// again as soon as that, without the host. Several requests of one scheduling step belong into one
// call.
//
// The chunks' memory must be pinned (PinnedPool). Which path a transfer takes is in lane.h;
// PathTable chooses, unless the options name one.
//
// A transfer that the device refuses ends with CudaError from whoever asks for it.
//
// Thread safety: any threads.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "cuda/path_table.h"

namespace radixkv::cuda {

struct CudaOptions {
  int device = 0;
  std::optional<Path> path;  // taken wherever it can be; nothing: measure at start and choose
  LaneOptions lane;
};

// Names a transfer. Never reused.
struct Ticket {
  Direction direction;
  std::int64_t number;
};

class CudaTransfer {
 public:
  // Makes streams, events and staging memory (2 * num_slabs * slab_bytes on the device), and
  // measures. Throws std::invalid_argument where `layout` contradicts itself, CudaError where the
  // device fails.
  CudaTransfer(EngineLayout layout, const CudaOptions& options);

  // Queues chunks → engine. Begins after what `engine_stream`, the engine's forward stream, holds
  // at this moment. Nothing is queued, and nothing given, while too much is in flight. Throws
  // std::invalid_argument where `slices` contradict themselves or the layout, or are too many.
  std::optional<Ticket> load(const Slices& slices, cudaStream_t engine_stream);

  // Queues engine → chunks, alike.
  std::optional<Ticket> store(const Slices& slices, cudaStream_t engine_stream);

  // What is queued on `stream` from now on begins after this layer of a load has landed. False if
  // the load failed. Waits only until the layer is queued.
  bool hold_for_layer(Ticket ticket, std::int32_t layer, cudaStream_t stream);
  // What is queued on `stream` from now on begins when the transfer has ended. False if it failed,
  // and ended so. Waits only until it is queued.
  bool hold_for_end(Ticket ticket, cudaStream_t stream);
  bool is_done(Ticket ticket) { return lane(ticket.direction).is_done(ticket.number); }
  // Blocks the calling thread until the transfer is done.
  void wait(Ticket ticket) { lane(ticket.direction).wait(ticket.number); }
  // What it takes or took, as long as that is remembered.
  std::optional<Path> path(Ticket ticket) { return lane(ticket.direction).path(ticket.number); }

  const DeviceEngine& engine() const { return engine_; }
  const PathTable& paths() const { return paths_; }

 private:
  Lane& lane(Direction direction) { return direction == Direction::kLoad ? *loads_ : *stores_; }
  std::optional<Ticket> submit(Direction direction, const Slices& slices, cudaStream_t fence);
  std::unique_ptr<Lane> make_lane(Direction direction) const;

  const CudaOptions options_;
  const DeviceEngine engine_;
  PathTable paths_;
  std::unique_ptr<Lane> loads_, stores_;
};

}  // namespace radixkv::cuda
