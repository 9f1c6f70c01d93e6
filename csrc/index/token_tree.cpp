#include "index/token_tree.h"

#include <memory>
#include <utility>

namespace radixkv {

Children::Children(Children&& other) noexcept : pairs_{} { *this = std::move(other); }

Children& Children::operator=(Children&& other) noexcept {
  if (this == &other) return *this;
  if (is_table()) std::destroy_at(&table_);
  num_pairs_ = std::exchange(other.num_pairs_, 0u);
  if (!is_table()) {
    std::construct_at(&pairs_, other.pairs_);
    return *this;
  }
  std::construct_at(&table_, std::move(other.table_));
  std::destroy_at(&other.table_);
  std::construct_at(&other.pairs_);
  return *this;
}

Children::~Children() {
  if (is_table()) std::destroy_at(&table_);
}

NodeId Children::find(Token token) const {
  if (is_table()) return table_.find(token);
  for (std::uint32_t i = 0; i < num_pairs_; ++i) {
    if (pairs_[i].token == token) return pairs_[i].node;
  }
  return kNoNode;
}

void Children::set(Token token, NodeId node) {
  if (is_table()) {
    table_.set(token, node);
    return;
  }
  for (std::uint32_t i = 0; i < num_pairs_; ++i) {
    if (pairs_[i].token == token) {
      pairs_[i].node = node;
      return;
    }
  }
  if (num_pairs_ < kInPlace) {
    pairs_[num_pairs_++] = {token, node};
    return;
  }
  FlatMap table;
  for (const Pair& pair : pairs_) table.set(pair.token, pair.node);
  table.set(token, node);
  std::construct_at(&table_, std::move(table));
  num_pairs_ = kTable;
}

void Children::erase(Token token) {
  if (!is_table()) {
    for (std::uint32_t i = 0; i < num_pairs_; ++i) {
      if (pairs_[i].token != token) continue;
      pairs_[i] = pairs_[--num_pairs_];
      return;
    }
    return;
  }
  table_.erase(token);
  if (table_.size() > kInPlace) return;
  const FlatMap table = std::move(table_);
  std::destroy_at(&table_);
  std::construct_at(&pairs_);
  num_pairs_ = 0;
  table.for_each([&](Token key, NodeId node) { pairs_[num_pairs_++] = {key, node}; });
}

NodeId Children::any() const {
  NodeId result = kNoNode;
  for_each([&](NodeId node) { result = node; });
  return result;
}

NodeId TokenTree::allocate() {
  ++num_nodes_;
  if (!spare_.empty()) {
    const NodeId id = spare_.back();
    spare_.pop_back();
    nodes_[id].parent = kNoNode;
    return id;
  }
  nodes_.emplace_back();
  return static_cast<NodeId>(nodes_.size() - 1);
}

void TokenTree::free(NodeId node) {
  nodes_[node] = Node{};
  nodes_[node].parent = kFreed;
  spare_.push_back(node);
  --num_nodes_;
}

NodeId TokenTree::add_root() { return allocate(); }

NodeId TokenTree::add_leaf(NodeId parent, TokenRun run) {
  const NodeId id = allocate();
  Node& node = nodes_[id];
  num_tokens_ += run.size();
  node.run = std::move(run);
  node.start = nodes_[parent].end();
  node.parent = parent;
  nodes_[parent].children.set(node.run.data()[0], id);
  return id;
}

NodeId TokenTree::split(NodeId node, std::uint32_t position) {
  const NodeId upper_id = allocate();
  Node& lower = nodes_[node];
  Node& upper = nodes_[upper_id];
  const std::uint32_t length = position - lower.start;
  upper.run = lower.run.part(0, length);
  upper.start = lower.start;
  upper.parent = lower.parent;
  nodes_[upper.parent].children.set(upper.run.data()[0], upper_id);
  lower.run = lower.run.part(length, lower.run.size() - length);
  lower.start = position;
  lower.parent = upper_id;
  upper.children.set(lower.run.data()[0], node);
  return upper_id;
}

NodeId TokenTree::join(NodeId node) {
  Node& upper = nodes_[node];
  const NodeId lower_id = upper.children.any();
  Node& lower = nodes_[lower_id];
  if (!upper.run.is_followed_by(lower.run)) return kNoNode;
  TokenRun run = upper.run;
  run.join(lower.run);
  lower.run = std::move(run);
  lower.start = upper.start;
  lower.parent = upper.parent;
  nodes_[lower.parent].children.set(lower.run.data()[0], lower_id);
  free(node);
  return lower_id;
}

void TokenTree::shrink(NodeId node, std::uint32_t end) {
  Node& leaf = nodes_[node];
  num_tokens_ -= leaf.end() - end;
  leaf.run.shrink(end - leaf.start);
}

void TokenTree::remove_leaf(NodeId node) {
  const Node& leaf = nodes_[node];
  num_tokens_ -= leaf.run.size();
  nodes_[leaf.parent].children.erase(leaf.run.data()[0]);
  free(node);
}

}  // namespace radixkv
