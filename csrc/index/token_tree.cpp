#include "index/token_tree.h"

#include <cstring>
#include <utility>

namespace radixkv {

// The pairs' bytes hold the pointer of the table, so that a node stays one cache line.
FlatMap* Children::table() const {
  FlatMap* map;
  std::memcpy(&map, pairs_.data(), sizeof(map));
  return map;
}

void Children::hold(std::unique_ptr<FlatMap> map) {
  FlatMap* owned = map.release();
  std::memcpy(pairs_.data(), &owned, sizeof(owned));
  size_ = kTable;
}

Children::Children(Children&& other) noexcept
    : size_(std::exchange(other.size_, 0u)), pairs_(other.pairs_) {}

Children& Children::operator=(Children&& other) noexcept {
  std::swap(size_, other.size_);
  std::swap(pairs_, other.pairs_);
  return *this;
}

Children::~Children() {
  if (is_table()) std::unique_ptr<FlatMap>(table()).reset();
}

NodeId Children::find(Token token) const {
  if (is_table()) return table()->find(token);
  for (std::uint32_t i = 0; i < size_; ++i) {
    if (pairs_[i].token == token) return pairs_[i].node;
  }
  return kNoNode;
}

void Children::set(Token token, NodeId node) {
  if (is_table()) {
    table()->set(token, node);
    return;
  }
  for (std::uint32_t i = 0; i < size_; ++i) {
    if (pairs_[i].token == token) {
      pairs_[i].node = node;
      return;
    }
  }
  if (size_ < kInPlace) {
    pairs_[size_++] = {token, node};
    return;
  }
  auto map = std::make_unique<FlatMap>();
  for (const Pair& pair : pairs_) map->set(pair.token, pair.node);
  map->set(token, node);
  hold(std::move(map));
}

void Children::erase(Token token) {
  if (!is_table()) {
    for (std::uint32_t i = 0; i < size_; ++i) {
      if (pairs_[i].token != token) continue;
      pairs_[i] = pairs_[--size_];
      return;
    }
    return;
  }
  table()->erase(token);
  if (table()->size() > kInPlace) return;
  const std::unique_ptr<FlatMap> map(table());
  size_ = 0;
  map->for_each([&](Token key, NodeId node) { pairs_[size_++] = {key, node}; });
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
    return id;
  }
  nodes_.emplace_back();
  return static_cast<NodeId>(nodes_.size() - 1);
}

void TokenTree::free(NodeId node) {
  nodes_[node] = Node{};
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
