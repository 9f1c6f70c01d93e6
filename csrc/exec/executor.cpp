#include "exec/executor.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace radixkv {
namespace {

PoolOptions pool_options(const ExecutorOptions& options) {
  PoolOptions pool = options.pool;
  pool.num_bytes = options.memory_units * options.unit_bytes;
  return pool;
}

CompletionQueue::Clock::duration seconds(double value) {
  return std::chrono::duration_cast<CompletionQueue::Clock::duration>(
      std::chrono::duration<double>(value));
}

[[noreturn]] void refuse(const std::string& argument, const std::string& problem) {
  throw std::invalid_argument(argument + ": " + problem);
}

void check_extent(const char* field, std::size_t index, std::uint64_t offset,
                  std::uint64_t num_units, std::int64_t tier_units) {
  if (offset + num_units <= static_cast<std::uint64_t>(tier_units)) return;
  refuse("chunks", std::string(field) + " of chunk " + std::to_string(index) + ": units " +
                       std::to_string(offset) + " … " + std::to_string(offset + num_units - 1) +
                       " are outside the tier's " + std::to_string(tier_units));
}

void check_strides(const char* field, const std::vector<std::int64_t>& strides,
                   std::size_t num_rows, std::int64_t least) {
  if (strides.size() != num_rows) {
    refuse("engine_memory", std::string(field) + ": expected " + std::to_string(num_rows) +
                                " entries, got " + std::to_string(strides.size()));
  }
  for (const std::int64_t stride : strides) {
    if (stride >= least) continue;
    refuse("engine_memory", std::string(field) + ": expected at least " + std::to_string(least) +
                                ", got " + std::to_string(stride));
  }
}

void check_engine(const EngineView& engine, const ExecutorOptions& options) {
  const auto num_rows = static_cast<std::size_t>(options.num_layers * options.num_kv);
  if (engine.addresses.size() != num_rows) {
    refuse("engine_memory", "addresses: expected " + std::to_string(num_rows) + " entries, got " +
                                std::to_string(engine.addresses.size()));
  }
  if (engine.num_slots < 1) refuse("engine_memory", "num_slots: expected at least 1");
  if (engine.block_slots < 1) refuse("engine_memory", "block_slots: expected at least 1");
  if (engine.num_pieces < 1 || options.row_bytes % engine.num_pieces != 0) {
    refuse("engine_memory", "num_pieces: expected a divisor of " +
                                std::to_string(options.row_bytes) + ", got " +
                                std::to_string(engine.num_pieces));
  }
  const std::int64_t piece_bytes = options.row_bytes / engine.num_pieces;
  check_strides("strides_bytes", engine.strides, num_rows, piece_bytes);
  check_strides("slot_strides_bytes", engine.slot_strides, engine.block_slots > 1 ? num_rows : 0,
                piece_bytes);
  check_strides("piece_strides_bytes", engine.piece_strides, engine.num_pieces > 1 ? num_rows : 0,
                piece_bytes);
}

}  // namespace

Executor::Executor(const ExecutorOptions& options, std::optional<DiskOptions> disk,
                   const PoolProgress& pool_progress, const ScanProgress& scan_progress)
    : options_(options), pool_(pool_options(options), pool_progress), tags_(options.memory_units) {
  context_.num_layers = options.num_layers;
  context_.num_kv = options.num_kv;
  context_.row_bytes = options.row_bytes;
  context_.unit_bytes = options.unit_bytes;
  context_.pool = pool_.data();
  context_.tags = &tags_;
  context_.board = &board_;
  context_.num_threads = options.num_copy_threads;
  context_.copies_rows = options.copies_rows;
  if (disk) {
    disk->token_bytes = context_.token_bytes();
    disk_ = std::make_unique<DiskTier>(
        *disk, pool_.bytes(), &tags_,
        [this](CommandKind kind, const Completion& completion, std::int64_t num_bytes) {
          completions_.ended(kind, completion, num_bytes);
        },
        scan_progress);
  }
  remote_context_ = remote_context();
  for (const RedisEndpoint& endpoint : options.remotes) {
    remotes_.push_back(std::make_unique<RemoteTier>(remote_context_, endpoint));
  }
  copies_ = std::make_unique<CopyThreads>(options.num_copy_threads,
                                          [this](const CopyJob& job) { copy_ended(job); });
}

Executor::~Executor() { close(0); }

void Executor::attach(EngineView engine) {
  check_open();
  check_engine(engine, options_);
  // Who has polled a copy's completion may attach at once: its thread may still be putting it away.
  if (completions_.stats(CommandKind::kStore).num_queued > 0 ||
      completions_.stats(CommandKind::kLoad).num_queued > 0) {
    refuse("engine_memory", "loads or stores with the old one are on their way");
  }
  engine_ = std::make_shared<const EngineView>(std::move(engine));
}

void Executor::submit_copy(CommandKind kind, std::int64_t command_id,
                           std::span<const ChunkRef> chunks, std::span<const std::int64_t> slots) {
  check_copy(kind, chunks, slots.size());
  check_slots(slots);
  auto job = std::make_unique<CopyJob>(&context_, kind, command_id, engine_, chunks, slots);
  const InjectedFault fault = take_fault(kind);
  if (kind == CommandKind::kLoad) board_.begin(command_id);
  completions_.submitted(kind, command_id, seconds(fault.delay_s));
  if (fault.fail) {
    job->reject();
    copy_ended(*job);
    return;
  }
  copies_->submit(std::move(job));
}

void Executor::submit_spill(std::int64_t command_id, std::span<const ChunkRef> chunks,
                            std::span<const Token> tokens, const Digest& namespace_digest,
                            std::uint64_t sequence) {
  check_open();
  check_chunks(chunks, true, true);
  check_tokens(chunks, tokens);
  DiskCommand command;
  command.kind = CommandKind::kSpill;
  command.id = command_id;
  command.chunks.assign(chunks.begin(), chunks.end());
  command.tokens.assign(tokens.begin(), tokens.end());
  command.namespace_digest = namespace_digest;
  command.sequence = sequence;
  submit_to_disk(std::move(command));
}

void Executor::submit_disk(CommandKind kind, std::int64_t command_id,
                           std::span<const ChunkRef> chunks) {
  check_open();
  check_chunks(chunks, kind == CommandKind::kFetch, true);
  DiskCommand command;
  command.kind = kind;
  command.id = command_id;
  command.chunks.assign(chunks.begin(), chunks.end());
  submit_to_disk(std::move(command));
}

void Executor::submit_to_disk(DiskCommand command) {
  const InjectedFault fault = take_fault(command.kind);
  command.injected_failure = fault.fail;
  completions_.submitted(command.kind, command.id, seconds(fault.delay_s));
  disk_->submit(std::move(command));
}

RemoteContext Executor::remote_context() {
  RemoteContext context;
  context.shape = options_.object_shape;
  context.shape.chunk_tokens = static_cast<std::size_t>(options_.chunk_tokens);
  context.shape.num_rows = options_.num_layers * options_.num_kv;
  context.shape.row_bytes = options_.row_bytes;
  context.unit_bytes = options_.unit_bytes;
  context.pool = pool_.data();
  context.tags = &tags_;
  context.sink = [this](CommandKind kind, const Completion& completion, std::int64_t num_bytes) {
    completions_.ended(kind, completion, num_bytes);
  };
  return context;
}

void Executor::submit_remote(std::size_t remote, RemoteCommand command) {
  check_open();
  if (remote >= remotes_.size()) {
    refuse("remote",
           "expected below " + std::to_string(remotes_.size()) + ", got " + std::to_string(remote));
  }
  if (command.kind != CommandKind::kLookup) {
    check_chunks(command.chunks, true, false);
    check_tokens(command.chunks, command.tokens);
  }
  const InjectedFault fault = take_fault(command.kind);
  command.injected_failure = fault.fail;
  completions_.submitted(command.kind, command.id, seconds(fault.delay_s));
  remotes_[remote]->submit(std::move(command));
}

bool Executor::wait_layer(std::int64_t command_id, std::int64_t layer, double timeout_s) {
  if (layer < 0 || layer >= options_.num_layers) {
    refuse("layer", "expected 0 … " + std::to_string(options_.num_layers - 1) + ", got " +
                        std::to_string(layer));
  }
  return board_.wait(command_id, layer, std::chrono::duration<double>(timeout_s));
}

std::span<const std::byte> Executor::read_memory(std::int64_t offset_units,
                                                 std::int64_t num_bytes) const {
  const std::int64_t begin = offset_units * options_.unit_bytes;
  const auto size = static_cast<std::int64_t>(pool_.bytes().size());
  if (offset_units < 0 || num_bytes < 0 || begin + num_bytes > size) {
    refuse("offset_units", "outside the memory tier");
  }
  return pool_.bytes().subspan(static_cast<std::size_t>(begin),
                               static_cast<std::size_t>(num_bytes));
}

void Executor::inject_fault(const InjectedFault& fault) { faults_.push_back(fault); }

InjectedFault Executor::take_fault(CommandKind kind) {
  InjectedFault now{kind};
  for (InjectedFault& fault : faults_) {
    if (fault.kind != kind || --fault.nth != 0) continue;
    now.fail |= fault.fail;
    now.delay_s = std::max(now.delay_s, fault.delay_s);
  }
  std::erase_if(faults_, [](const InjectedFault& fault) { return fault.nth <= 0; });
  return now;
}

void Executor::close(double drain_s) {
  if (closed_) return;
  closed_ = true;
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(drain_s);
  if (copies_) copies_->close(drain_s);
  const std::chrono::duration<double> left = until - std::chrono::steady_clock::now();
  if (disk_) disk_->close(std::max(0.0, left.count()));
  for (const auto& remote : remotes_) {
    const std::chrono::duration<double> rest = until - std::chrono::steady_clock::now();
    remote->close(std::max(0.0, rest.count()));
  }
  completions_.interrupt();
}

void Executor::check_open() const {
  if (closed_) refuse("command", "the executor is closed");
}

void Executor::check_chunks(std::span<const ChunkRef> chunks, bool in_memory, bool on_disk) const {
  if (on_disk && disk_ == nullptr) refuse("command", "there is no disk tier");
  if (chunks.empty()) refuse("chunks", "expected at least one");
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const ChunkRef& chunk = chunks[i];
    if (in_memory) {
      check_extent("memory_offset", i, chunk.memory_offset, chunk.num_units, options_.memory_units);
    }
    if (on_disk) {
      check_extent("disk_offset", i, chunk.disk_offset, chunk.num_units,
                   disk_->shape().capacity_units);
    }
    const std::int64_t stored = chunk.num_tokens * context_.token_bytes();
    if (chunk.num_tokens < 1 || chunk.num_tokens > options_.chunk_tokens ||
        stored > chunk.num_units * options_.unit_bytes) {
      refuse("chunks", "chunk " + std::to_string(i) + " has " + std::to_string(chunk.num_tokens) +
                           " tokens in " + std::to_string(chunk.num_units) + " units");
    }
  }
}

void Executor::check_tokens(std::span<const ChunkRef> chunks, std::span<const Token> tokens) {
  std::size_t num_tokens = 0;
  for (const ChunkRef& chunk : chunks) num_tokens += chunk.num_tokens;
  if (tokens.size() != num_tokens) {
    refuse("tokens", "expected shape (" + std::to_string(num_tokens) + ",), got (" +
                         std::to_string(tokens.size()) + ",)");
  }
}

void Executor::check_copy(CommandKind kind, std::span<const ChunkRef> chunks,
                          std::size_t num_slots) const {
  check_open();
  if (engine_ == nullptr) refuse("command", "no engine memory is attached");
  check_chunks(chunks, true, false);
  std::size_t num_tokens = 0;
  for (const ChunkRef& chunk : chunks) {
    if (chunk.count < 1 || chunk.first + chunk.count > chunk.num_tokens) {
      refuse("chunks", "a slice of " + std::to_string(chunk.count) + " tokens from " +
                           std::to_string(chunk.first) + " in a chunk of " +
                           std::to_string(chunk.num_tokens));
    }
    num_tokens += chunk.count;
  }
  if (num_slots != num_tokens) {
    refuse("slots", "expected shape (" + std::to_string(num_tokens) + ",), got (" +
                        std::to_string(num_slots) + ",)");
  }
  const auto is_partial = [](const ChunkRef& chunk) { return chunk.count != chunk.num_tokens; };
  if (kind == CommandKind::kStore && std::any_of(chunks.begin(), chunks.end(), is_partial)) {
    refuse("chunks", "a store fills whole chunks: count must be num_tokens");
  }
}

void Executor::check_slots(std::span<const std::int64_t> slots) const {
  // One unsigned comparison finds negative slots too, and the loop has no branch to stop it from
  // being vectorised.
  std::uint64_t largest = 0;
  for (const std::int64_t slot : slots)
    largest = std::max(largest, static_cast<std::uint64_t>(slot));
  if (largest >= static_cast<std::uint64_t>(engine_->num_slots)) {
    refuse("slots", "outside 0 … " + std::to_string(engine_->num_slots - 1));
  }
}

void Executor::copy_ended(const CopyJob& job) {
  if (job.kind() == CommandKind::kLoad) board_.end(job.completion().command_id);
  completions_.ended(job.kind(), job.completion(), job.num_bytes_done());
}

}  // namespace radixkv
