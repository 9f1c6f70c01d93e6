#include "cuda/cuda_transfer.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace radixkv::cuda {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

}  // namespace

CudaTransfer::CudaTransfer(EngineLayout layout, const CudaOptions& options)
    : options_(options), engine_(std::move(layout), options.device) {
  const LaneOptions& lane = options.lane;
  if (lane.max_blocks < 1 || lane.sort_blocks < 1) {
    refuse("max_blocks, sort_blocks: expected at least 1");
  }
  if (lane.slab_bytes < 1 || lane.num_slabs < 1 || lane.pause_bytes < 1) {
    refuse("slab_bytes, num_slabs, pause_bytes: expected at least 1");
  }
  if (lane.max_in_flight < 1 || lane.max_tokens < 1) {
    refuse("max_in_flight, max_tokens: expected at least 1");
  }
  const DeviceScope scope(options.device);
  for (int width = engine_.vector_bytes(); width >= 1; width /= 2) preload_copy(width);
  if (!options.path) paths_ = PathTable::measure(engine_, lane);
  loads_ = make_lane(Direction::kLoad);
  stores_ = make_lane(Direction::kStore);
}

std::unique_ptr<Lane> CudaTransfer::make_lane(Direction direction) const {
  return std::make_unique<Lane>(
      engine_, direction, options_.lane, [this, direction](std::int64_t num_bytes) {
        return options_.path ? *options_.path : paths_.choose(direction, num_bytes);
      });
}

std::optional<Ticket> CudaTransfer::load(const Slices& slices, cudaStream_t engine_stream) {
  return submit(Direction::kLoad, slices, engine_stream);
}

std::optional<Ticket> CudaTransfer::store(const Slices& slices, cudaStream_t engine_stream) {
  return submit(Direction::kStore, slices, engine_stream);
}

bool CudaTransfer::hold_for_layer(Ticket ticket, std::int32_t layer, cudaStream_t stream) {
  if (ticket.direction != Direction::kLoad) refuse("ticket: a store has no layers to wait for");
  if (layer < 0 || layer >= engine_.num_layers()) {
    refuse("layer: expected 0 to " + std::to_string(engine_.num_layers() - 1) + ", got " +
           std::to_string(layer));
  }
  const DeviceScope scope(options_.device);
  return loads_->hold_for_layer(ticket.number, layer, stream);
}

bool CudaTransfer::hold_for_end(Ticket ticket, cudaStream_t stream) {
  const DeviceScope scope(options_.device);
  return lane(ticket.direction).hold_for_layer(ticket.number, engine_.num_layers() - 1, stream);
}

std::optional<Ticket> CudaTransfer::submit(Direction direction, const Slices& slices,
                                           cudaStream_t fence) {
  checked_params(engine_.layout(), slices);
  if (slices.num_tokens() > options_.lane.max_tokens) {
    refuse("slots: expected at most " + std::to_string(options_.lane.max_tokens) + ", got " +
           std::to_string(slices.num_tokens()));
  }
  const DeviceScope scope(options_.device);
  const auto number = lane(direction).submit(slices, fence);
  if (!number) return std::nullopt;
  return Ticket{direction, *number};
}

}  // namespace radixkv::cuda
