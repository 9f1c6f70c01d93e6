// RemoteTier is one remote server's half of the data plane: memory ↔ a Redis that other machines
// share.
//
//   submit ─┬─ lookup, get ─▶ a lane that reads  ─┐
//           └─ put ─────────▶ a lane that writes ─┴─▶ completion sink
//
// Two lanes, so that a lookup never waits behind megabytes that are being written.
// Thread safety: any thread; `close` from the owner's.
#pragma once

#include <memory>

#include "net/remote_lane.h"

namespace radixkv {

class RemoteTier {
 public:
  // Connects in the background. What the context points to outlives the tier.
  RemoteTier(RemoteContext context, RedisEndpoint endpoint)
      : context_(std::move(context)),
        endpoint_(std::move(endpoint)),
        reads_(&context_, &endpoint_),
        writes_(&context_, &endpoint_) {}

  // REQUIRES: kPut, kGet or kLookup; extents within the pool; tokens as many as the chunks say.
  void submit(RemoteCommand command) {
    RemoteLane& lane = command.kind == CommandKind::kPut ? writes_ : reads_;
    lane.submit(std::move(command));
  }

  // What is being put may go on until `drain_s` is over; nobody waits for what is read any more.
  void close(double drain_s) {
    reads_.close(0);
    writes_.close(drain_s);
  }

  // It serves once both lanes do.
  RemoteHealth health() const {
    const RemoteHealth reads = reads_.health();
    return reads.is_connected ? writes_.health() : reads;
  }
  std::int64_t num_changes() const { return reads_.num_changes() + writes_.num_changes(); }

 private:
  const RemoteContext context_;
  const RedisEndpoint endpoint_;
  RemoteLane reads_;
  RemoteLane writes_;
};

}  // namespace radixkv
