// Executor is one rank's data plane: it owns the pinned pool, the disk file and the connections to
// remote servers, executes commands on threads of its own and reports how they ended. It decides
// nothing.
//
//   submit ─┬─ store, load ────────▶ copy threads ───┐
//           ├─ spill, fetch, clear ▶ disk thread ────┼─▶ completions ─▶ poll
//           └─ put, get, lookup ───▶ remotes' lanes ─┘
//
// Invariant: a chunk's bytes are only read while its extent carries its tag (UnitTags).
//
// Thread safety: `wait_layer`, `layers_done`, `poll`, `wait` and `kind_stats` from any thread; the
// rest from one thread at a time. Destruction ends everything.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "core/unit_tags.h"
#include "disk/disk_tier.h"
#include "exec/completion_queue.h"
#include "exec/copy_job.h"
#include "exec/copy_threads.h"
#include "exec/load_board.h"
#include "memory/pinned_pool.h"
#include "net/outside_objects.h"
#include "net/remote_tier.h"

namespace radixkv {

struct ExecutorOptions {
  std::int64_t num_layers = 0;
  std::int64_t num_kv = 0;
  std::int64_t row_bytes = 0;
  std::int64_t chunk_tokens = 0;
  std::int64_t unit_bytes = 0;
  std::int64_t memory_units = 0;
  PoolOptions pool;  // num_bytes is set from memory_units
  int num_copy_threads = 2;
  bool copies_rows = true;  // false only to measure what a command costs beside its bytes
  std::vector<RedisEndpoint> remotes;
  ObjectShape object_shape;  // of what lies there; its sizes are set from the above
};

// What a test wants to go wrong: the `nth` command of a kind from now (1 is the next) fails without
// being begun, or its completion comes late.
struct InjectedFault {
  CommandKind kind = CommandKind::kStore;
  std::int64_t nth = 1;
  bool fail = false;
  double delay_s = 0;
};

class Executor {
 public:
  // Throws TierFailure. A disk tier is opened where `disk` is given.
  Executor(const ExecutorOptions& options, std::optional<DiskOptions> disk,
           const PoolProgress& pool_progress = {}, const ScanProgress& scan_progress = {});
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Says where the engine keeps KV. The memory stays until another is attached or the executor is
  // closed. Throws std::invalid_argument where it does not fit the layout or copies are on their
  // way.
  void attach(EngineView engine);

  // Queue a command. The arrays are copied. They never wait for I/O; throw std::invalid_argument
  // where the command does not make sense.
  void submit_copy(CommandKind kind, std::int64_t command_id, std::span<const ChunkRef> chunks,
                   std::span<const std::int64_t> slots);

  // A store or load that is carried out elsewhere, by a GPU say. Counted like any other, and
  // checked, but for what the slots are. False where it ended at once: it was made to fail, or a
  // load means chunks that are not there.
  bool begin_outside(CommandKind kind, std::int64_t command_id, std::span<const ChunkRef> chunks,
                     std::size_t num_slots);
  // REQUIRES: begin_outside gave true for the same command, which has not ended.
  void end_outside(CommandKind kind, std::int64_t command_id, std::span<const ChunkRef> chunks,
                   bool ok);

  // A store whose bytes come as they are stored, of the chunks from the first as far as there are
  // `payloads`; where that is not all of them it ends with kCorrupt. Copied before it returns, so
  // no engine's memory is needed.
  void submit_stored(std::int64_t command_id, std::span<const ChunkRef> chunks,
                     std::span<const std::span<const std::byte>> payloads);

  void submit_spill(std::int64_t command_id, std::span<const ChunkRef> chunks,
                    std::span<const Token> tokens, const Digest& namespace_digest,
                    std::uint64_t sequence);
  void submit_disk(CommandKind kind, std::int64_t command_id, std::span<const ChunkRef> chunks);

  // `remote` is the server's place in the options.
  void submit_remote(std::size_t remote, RemoteCommand command);

  // The same for a server whose client lives outside. Counted like any other: false where it was
  // made to fail, and has ended.
  bool begin_elsewhere(CommandKind kind, std::int64_t command_id);
  // REQUIRES: begin_elsewhere gave true for the same command, which has not ended.
  void end_elsewhere(CommandKind kind, const Completion& completion, std::int64_t num_bytes) {
    completions_.ended(kind, completion, num_bytes);
  }
  // What such a client has to move. Throws std::invalid_argument where the command makes no sense.
  std::unique_ptr<OutsideObjects> outside_objects(RemoteCommand command, std::byte* heads) const;
  // Names of the full chunks of `tokens` behind the one with key `parent`.
  std::vector<std::string> chunk_names(const Digest& parent, std::span<const Token> tokens) const;

  std::vector<Completion> poll(std::size_t max) { return completions_.poll(max); }
  void wait(CompletionQueue::Clock::duration timeout) { completions_.wait(timeout); }
  bool wait_layer(std::int64_t command_id, std::int64_t layer, double timeout_s);
  std::int64_t layers_done(std::int64_t command_id) const { return board_.layers_done(command_id); }

  KindStats kind_stats(CommandKind kind) const { return completions_.stats(kind); }
  const PinnedPool& pool() const { return pool_; }
  DiskTier* disk() { return disk_.get(); }  // null where there is none
  const std::vector<std::unique_ptr<RemoteTier>>& remotes() const { return remotes_; }

  // The bytes of `num_bytes` from a unit on, for tests.
  std::span<const std::byte> read_memory(std::int64_t offset_units, std::int64_t num_bytes) const;

  void inject_fault(const InjectedFault& fault);

  // Finishes what is queued until `drain_s` is over, fails the rest, syncs and unlocks the disk.
  // What has ended can still be polled. Idempotent.
  void close(double drain_s);

 private:
  void check_open() const;
  void check_chunks(std::span<const ChunkRef> chunks, bool in_memory, bool on_disk) const;
  static void check_tokens(std::span<const ChunkRef> chunks, std::span<const Token> tokens);
  void check_copy(CommandKind kind, std::span<const ChunkRef> chunks, std::size_t num_slots) const;
  void clear_padding(const ChunkRef& chunk);
  void check_slots(std::span<const std::int64_t> slots) const;
  InjectedFault take_fault(CommandKind kind);
  void submit_to_disk(DiskCommand command);
  RemoteContext remote_context();
  void copy_ended(const CopyJob& job);

  const ExecutorOptions options_;
  PinnedPool pool_;
  UnitTags tags_;
  LoadBoard board_;
  CompletionQueue completions_;
  CopyContext context_;
  std::shared_ptr<const EngineView> engine_;
  std::vector<InjectedFault> faults_;
  bool closed_ = false;
  std::unique_ptr<DiskTier> disk_;
  RemoteContext remote_context_;
  std::vector<std::unique_ptr<RemoteTier>> remotes_;
  std::unique_ptr<CopyThreads> copies_;  // last: its threads use all of the above
};

}  // namespace radixkv
