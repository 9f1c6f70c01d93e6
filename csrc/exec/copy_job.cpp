#include "exec/copy_job.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace radixkv {
namespace {

// Smaller parts would cost more in handing out than they gain in evenness.
constexpr std::int64_t kMinPartBytes = std::int64_t{512} << 10;
constexpr std::int64_t kPartsPerThread = 4;

}  // namespace

CopyJob::CopyJob(const CopyContext* context, CommandKind kind, std::int64_t id,
                 std::shared_ptr<const EngineView> engine, std::span<const ChunkRef> chunks,
                 std::span<const std::int64_t> slots)
    : context_(*context),
      kind_(kind),
      id_(id),
      engine_(std::move(engine)),
      chunks_(chunks.begin(), chunks.end()),
      slots_(slots.begin(), slots.end()) {}

std::int64_t CopyJob::plan() {
  check_generations();
  for (std::int32_t i = 0; i < num_good_; ++i) {
    const ChunkRef& chunk = chunks_[static_cast<std::size_t>(i)];
    chunk_addresses_.push_back(context_.pool +
                               std::int64_t{chunk.memory_offset} * context_.unit_bytes);
    chunk_num_tokens_.push_back(chunk.num_tokens);
    first_.push_back(chunk.first);
    count_.push_back(chunk.count);
  }
  runs_ = plan_runs(params());
  cut_into_parts();
  const auto num_parts = static_cast<std::int64_t>(part_begin_.size()) - 1;
  const bool is_load = kind_ == CommandKind::kLoad;
  const std::int64_t num_items = is_load ? num_parts * context_.num_layers : num_parts;
  if (is_load) {
    parts_left_ =
        std::vector<std::atomic<std::int64_t>>(static_cast<std::size_t>(context_.num_layers));
    for (auto& left : parts_left_) left.store(num_parts);
  }
  num_items_left_.store(num_items);
  return num_items;
}

void CopyJob::reject() {
  status_ = CompletionStatus::kFailed;
  if (kind_ == CommandKind::kLoad) context_.board->fail(id_);
}

// A load takes what is there, up to the first chunk that is not; a store makes its extents its own.
void CopyJob::check_generations() {
  if (kind_ == CommandKind::kStore) {
    for (const ChunkRef& chunk : chunks_) context_.tags->wipe(chunk);
    num_good_ = static_cast<std::int32_t>(chunks_.size());
    return;
  }
  const auto bad = std::find_if_not(chunks_.begin(), chunks_.end(), [this](const ChunkRef& chunk) {
    return context_.tags->holds(chunk);
  });
  num_good_ = static_cast<std::int32_t>(bad - chunks_.begin());
  if (bad == chunks_.end()) return;
  status_ = CompletionStatus::kCorrupt;
  context_.board->fail(id_);
}

// Parts of a store are its chunks; those of a load have about the same number of tokens each.
void CopyJob::cut_into_parts() {
  part_begin_.assign(1, 0);
  std::int64_t num_tokens = 0;
  for (const std::int32_t count : count_) num_tokens += count;
  const std::int64_t layer_bytes = num_tokens * context_.num_kv * context_.row_bytes;
  const std::int64_t num_parts = std::clamp<std::int64_t>(layer_bytes / kMinPartBytes, 1,
                                                          kPartsPerThread * context_.num_threads);
  const std::int64_t part_tokens = (num_tokens + num_parts - 1) / num_parts;
  std::int64_t tokens_in_part = 0;
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    tokens_in_part += runs_[i].count;
    const bool chunk_ends = i + 1 == runs_.size() || runs_[i + 1].slice != runs_[i].slice;
    const bool part_ends =
        kind_ == CommandKind::kStore ? chunk_ends : tokens_in_part >= part_tokens;
    if (!part_ends && i + 1 != runs_.size()) continue;
    part_begin_.push_back(i + 1);
    tokens_in_part = 0;
  }
}

CopyParams CopyJob::params() const {
  CopyParams params;
  params.engine = engine_->addresses.data();
  params.engine_strides = engine_->strides.data();
  params.slots = slots_.data();
  params.chunks = chunk_addresses_.data();
  params.chunk_num_tokens = chunk_num_tokens_.data();
  params.first = first_.data();
  params.count = count_.data();
  params.num_slices = num_good_;
  params.num_rows = context_.num_layers * context_.num_kv;
  params.row_bytes = context_.row_bytes;
  params.block_slots = engine_->block_slots;
  params.slot_strides = engine_->slot_strides.data();
  params.num_pieces = engine_->num_pieces;
  params.piece_strides = engine_->piece_strides.data();
  return params;
}

bool CopyJob::run_item(std::int64_t item) {
  if (kind_ == CommandKind::kStore) {
    store_chunk(item);
  } else {
    const auto num_parts = static_cast<std::int64_t>(part_begin_.size()) - 1;
    load_part(item / num_parts, item % num_parts);
  }
  return num_items_left_.fetch_sub(1) == 1;
}

void CopyJob::store_chunk(std::int64_t index) {
  const auto part = static_cast<std::size_t>(index);
  const std::span runs(runs_.begin() + static_cast<std::ptrdiff_t>(part_begin_[part]),
                       runs_.begin() + static_cast<std::ptrdiff_t>(part_begin_[part + 1]));
  const CopyParams all = params();
  if (context_.copies_rows) gather_rows(all, runs, 0, all.num_rows);
  const ChunkRef& chunk = chunks_[part];
  const std::int64_t stored = chunk.num_tokens * context_.token_bytes();
  const std::int64_t padding = chunk.num_units * context_.unit_bytes - stored;
  std::memset(chunk_addresses_[part] + stored, 0, static_cast<std::size_t>(padding));
  context_.tags->set(chunk);
}

void CopyJob::load_part(std::int64_t layer, std::int64_t part) {
  const auto index = static_cast<std::size_t>(part);
  const std::span runs(runs_.begin() + static_cast<std::ptrdiff_t>(part_begin_[index]),
                       runs_.begin() + static_cast<std::ptrdiff_t>(part_begin_[index + 1]));
  if (context_.copies_rows) {
    scatter_rows(params(), runs, layer * context_.num_kv, (layer + 1) * context_.num_kv);
  }
  count_layer(layer);
}

// Layers end out of order when a thread is slow; the board only hears of whole prefixes.
void CopyJob::count_layer(std::int64_t layer) {
  if (parts_left_[static_cast<std::size_t>(layer)].fetch_sub(1) != 1) return;
  std::int64_t done = layers_done_.load();
  while (done < context_.num_layers && parts_left_[static_cast<std::size_t>(done)].load() == 0) {
    if (layers_done_.compare_exchange_weak(done, done + 1)) ++done;
  }
  if (status_ == CompletionStatus::kOk) context_.board->advance(id_, layers_done_.load());
}

std::int64_t CopyJob::num_bytes_done() const {
  std::int64_t num_tokens = 0;
  for (const std::int32_t count : count_) num_tokens += count;
  return num_tokens * context_.token_bytes();
}

}  // namespace radixkv
