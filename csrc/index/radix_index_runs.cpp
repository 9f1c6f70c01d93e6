// Telling the finder of runs what comes and goes.
#include "index/radix_index.h"
#include "index/run_finder.h"

namespace radixkv {

RadixIndex::~RadixIndex() = default;

void RadixIndex::index_runs(std::uint32_t min_length) {
  runs_ = std::make_unique<RunFinder>(*this, min_length);
}

// REQUIRES: as for tell().
void RadixIndex::note_runs(ChunkId id, Tier which, bool is_stored) {
  const Tier other = which == Tier::kMemory ? Tier::kDisk : Tier::kMemory;
  if (!chunks_.is_visible(id, which) || chunks_.is_visible(id, other)) return;
  if (is_stored) {
    runs_->note_visible(id);
  } else {
    runs_->note_invisible(id);
  }
}

}  // namespace radixkv
