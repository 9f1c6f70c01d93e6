// TokenTree finds: a radix tree over token ids, one root for each namespace.
//
//   root ── [0, 1900) ──┬── [1900, 2200)
//                       └── [1900, 4000) ── [4000, 4040)          a node is a run of tokens
//
// Children are found by their first token. A split shares the run's buffer. A node also says which
// chunks end in it; the tree itself only keeps those numbers in step with its nodes.
//
// Invariants: a node other than a root has at least one token; siblings differ in their first
// token. Thread safety: reads may run beside each other, a write needs the tree alone.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/flat_map.h"
#include "core/huge_pages.h"
#include "index/chunk_table.h"
#include "index/tokens.h"

namespace radixkv {

// The children of one node by first token: two in place, more in a table.
class Children {
 public:
  Children() : pairs_{} {}
  Children(Children&& other) noexcept;
  Children& operator=(Children&& other) noexcept;
  ~Children();

  NodeId find(Token token) const;
  void set(Token token, NodeId node);
  void erase(Token token);
  std::uint32_t size() const { return is_table() ? table_.size() : num_pairs_; }

  // Any one of them. REQUIRES: size() > 0.
  NodeId any() const;

  template <class Visit>
  void for_each(Visit visit) const {
    if (is_table()) {
      table_.for_each([&](Token, NodeId node) { visit(node); });
    } else {
      for (std::uint32_t i = 0; i < num_pairs_; ++i) visit(pairs_[i].node);
    }
  }

 private:
  struct Pair {
    Token token;
    NodeId node;
  };
  static constexpr std::uint32_t kInPlace = 2;
  static constexpr std::uint32_t kTable = 0xFFFFFFFFu;

  bool is_table() const { return num_pairs_ == kTable; }

  // One of the two, so that a node stays one cache line.
  union {
    std::array<Pair, kInPlace> pairs_;
    FlatMap table_;
  };
  std::uint32_t num_pairs_ = 0;  // kTable: table_ is the one
};

struct alignas(64) Node {
  TokenRun run;
  [[no_unique_address]] Children children;
  std::uint32_t num_pins = 0;  // pins whose last chunk ends in this node or below it
  std::uint32_t start = 0;     // position of the run's first token
  NodeId parent = kNoNode;
  // The full chunks whose last token lies here: ids first_chunk, first_chunk + 1, … in order of
  // position, one for each span that ends in (start, end].
  ChunkId first_chunk = kNoChunk;
  ChunkId first_tail = kNoChunk;  // the tails whose last token lies here, as a list
  // Where `end` lies inside a span: the chunk of that span, among those that end below, that a
  // match would take from each tier; else kNoChunk.
  std::array<ChunkId, kNumTiers> best = {kNoChunk, kNoChunk};

  std::uint32_t end() const { return start + run.size(); }
};
static_assert(sizeof(Node) == 64);

class TokenTree {
 public:
  Node& operator[](NodeId id) { return nodes_[id]; }
  const Node& operator[](NodeId id) const { return nodes_[id]; }

  NodeId add_root();
  // Whether the node is in use.
  bool is_node(NodeId id) const { return id < nodes_.size() && nodes_[id].parent != kFreed; }
  // False for any number that add_root() did not return.
  bool is_root(NodeId id) const { return id < nodes_.size() && nodes_[id].parent == kNoNode; }

  // Adds a leaf below `parent`. REQUIRES: `run` is not empty, no child of `parent` begins with its
  // token.
  NodeId add_leaf(NodeId parent, TokenRun run);

  // Parts `node` at `position`: a new node takes the tokens before it and becomes the parent of
  // `node`, which keeps its id and its children. Returns the new one; its other fields are blank.
  // REQUIRES: start < position < end.
  NodeId split(NodeId node, std::uint32_t position);

  // Undoes a split: `node`'s tokens go in front of its only child's, and `node` is freed. Returns
  // the child, or kNoNode where the two were never one buffer (nothing happens then).
  NodeId join(NodeId node);

  // Shortens a leaf; REQUIRES: no children, start < end < node's end.
  void shrink(NodeId node, std::uint32_t end);

  // Takes out a leaf that is no root. REQUIRES: no children.
  void remove_leaf(NodeId node);

  std::uint32_t num_nodes() const { return num_nodes_; }
  std::uint64_t num_tokens() const { return num_tokens_; }

 private:
  static constexpr NodeId kFreed = kNoNode - 1;  // the parent of a node that is not in use

  NodeId allocate();
  void free(NodeId node);

  std::vector<Node, HugePageAllocator<Node>> nodes_;
  std::vector<NodeId> spare_;
  std::uint32_t num_nodes_ = 0;
  std::uint64_t num_tokens_ = 0;
};

}  // namespace radixkv
