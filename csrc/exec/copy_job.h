// CopyJob is one store or load on its way through the copy threads, cut into items that any of them
// may do. An item of a store is a whole chunk; one of a load is a layer of a part of the tokens:
//
//            part 0   part 1   part 2
//   layer 0    0        1        2        a layer is done when its parts are
//   layer 1    3        4        5        and all layers before it
//
// Life: `plan` once, on one thread; then `run_item` for each index once, on any threads; the call
// that returns true was the last.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/completion.h"
#include "core/types.h"
#include "core/unit_tags.h"
#include "exec/load_board.h"
#include "transfer/cpu_copy.h"

namespace radixkv {

// Where the engine keeps KV, order [layer][K,V]; see EngineMemory in layout.py, and CopyParams.
struct EngineView {
  std::vector<std::byte*> addresses;
  std::vector<std::int64_t> strides;        // from block to block
  std::vector<std::int64_t> slot_strides;   // in a block; empty where a block is a slot
  std::vector<std::int64_t> piece_strides;  // empty where a row is whole
  std::int64_t block_slots = 1;
  std::int64_t num_pieces = 1;
  std::int64_t num_slots = 0;
};

// What all jobs of an executor share.
struct CopyContext {
  std::int64_t num_layers = 0;
  std::int64_t num_kv = 0;
  std::int64_t row_bytes = 0;
  std::int64_t unit_bytes = 0;
  std::byte* pool = nullptr;
  UnitTags* tags = nullptr;
  LoadBoard* board = nullptr;
  int num_threads = 1;
  bool copies_rows = true;  // false only to measure what a command costs beside its bytes

  std::int64_t token_bytes() const { return num_layers * num_kv * row_bytes; }
};

class CopyJob {
 public:
  // REQUIRES: kind is kStore or kLoad; chunks and slots are checked against the pool and the
  // engine.
  CopyJob(const CopyContext* context, CommandKind kind, std::int64_t id,
          std::shared_ptr<const EngineView> engine, std::span<const ChunkRef> chunks,
          std::span<const std::int64_t> slots);

  // Checks generations and cuts the job; gives the number of items, perhaps 0.
  std::int64_t plan();

  // Does one item. True if it was the last to end.
  bool run_item(std::int64_t item);

  // Ends the job before its plan, with nothing done.
  void reject();

  CommandKind kind() const { return kind_; }
  Completion completion() const { return {id_, num_good_, status_}; }
  std::int64_t num_bytes_done() const;

 private:
  void check_generations();
  void cut_into_parts();
  CopyParams params() const;
  void store_chunk(std::int64_t index);
  void load_part(std::int64_t layer, std::int64_t part);
  void count_layer(std::int64_t layer);

  const CopyContext& context_;
  const CommandKind kind_;
  const std::int64_t id_;
  const std::shared_ptr<const EngineView> engine_;
  const std::vector<ChunkRef> chunks_;
  const std::vector<std::int64_t> slots_;

  std::int32_t num_good_ = 0;
  CompletionStatus status_ = CompletionStatus::kOk;
  std::vector<std::byte*> chunk_addresses_;
  std::vector<std::int32_t> chunk_num_tokens_, first_, count_;
  std::vector<CopyRun> runs_;
  std::vector<std::size_t> part_begin_;  // into runs_, one more than parts
  std::atomic<std::int64_t> num_items_left_{0};
  std::vector<std::atomic<std::int64_t>> parts_left_;  // of each layer of a load
  std::atomic<std::int64_t> layers_done_{0};
};

}  // namespace radixkv
