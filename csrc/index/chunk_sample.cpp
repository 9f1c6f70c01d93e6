#include "index/chunk_sample.h"

#include <algorithm>

namespace radixkv {

std::vector<ChunkSample::Row> ChunkSample::take(const RadixIndex& index, std::uint64_t first,
                                                std::uint64_t step, std::uint32_t count) {
  const ChunkTable& chunks = index.chunks_;
  std::vector<Row> rows;
  if (chunks.num_slots() == 0) return rows;
  std::vector<NodeId> path;
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto id = static_cast<ChunkId>((first + i * step) % chunks.num_slots());
    const bool in_memory = chunks.is_visible(id, Tier::kMemory);
    if (!in_memory && !chunks.is_visible(id, Tier::kDisk)) continue;
    path.clear();
    NodeId node = chunks.node(id);
    for (; index.tree_[node].parent != kNoNode; node = index.tree_[node].parent) {
      path.push_back(node);
    }
    Row row{node, chunks[id].num_tokens, chunks[id].num_uses, in_memory ? 1u : 0u, {}};
    row.nodes.fill(kNoNode);
    const std::size_t num_nodes = std::min(path.size(), kMostNodes);
    std::copy_n(path.rbegin(), num_nodes, row.nodes.begin());
    rows.push_back(row);
  }
  return rows;
}

ChunkSample::Head ChunkSample::head(const RadixIndex& index, NodeId node,
                                    std::uint32_t most_tokens) {
  if (!index.tree_.is_node(node) || index.tree_.is_root(node)) return {};
  const Node& found = index.tree_[node];
  const Token* tokens = found.run.data();
  const std::uint32_t count = std::min(most_tokens, found.run.size());
  return {found.start, found.end(), {tokens, tokens + count}};
}

}  // namespace radixkv
