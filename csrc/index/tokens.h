// Token ids as callers hand them over, and as the tree keeps them.
//
//   caller's buffer (int32, int64 or uint32)  ──compared in place──▶  TokenRun ──▶ shared buffer of
//   uint32
//
// Ids are 0 … 2^32 - 1. One outside never equals a kept token, so it ends a match; copying it is
// refused. Thread safety: a view or a run may be read by several threads. Runs that share a buffer
// count their sharers without atomics, so only one thread may copy or destroy runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/types.h"
#include "index/token_arena.h"

namespace radixkv {

enum class TokenType : std::uint8_t { kUint32, kInt32, kInt64 };

// A caller's tokens, not owned.
class TokenView {
 public:
  TokenView(const void* data, std::size_t num_tokens, TokenType type)
      : data_(data), num_tokens_(num_tokens), type_(type) {}

  std::size_t size() const { return num_tokens_; }

  TokenView first(std::size_t num_tokens) const { return {data_, num_tokens, type_}; }

  // The token at `position`, or nullopt where the id is out of range. REQUIRES: position < size().
  std::optional<Token> at(std::size_t position) const;

  // How many of `run`'s tokens equal those from `position` on.
  std::size_t match(std::size_t position, const Token* run, std::size_t num_tokens) const;

  // Converts tokens [position, position + num_tokens) to `out`.
  // Throws std::invalid_argument that names the first id out of range.
  void copy(std::size_t position, std::size_t num_tokens, Token* out) const;

 private:
  const void* data_;
  std::size_t num_tokens_;
  TokenType type_;
};

// A run of tokens inside a shared, immutable buffer. Splitting and copying share the buffer.
class TokenRun {
 public:
  TokenRun() = default;
  // Copies tokens [position, position + num_tokens) of a caller. Throws like TokenView::copy.
  TokenRun(TokenArena& arena, const TokenView& tokens, std::size_t position,
           std::size_t num_tokens);
  TokenRun(const TokenRun& other);
  TokenRun(TokenRun&& other) noexcept;
  TokenRun& operator=(TokenRun other) noexcept;
  ~TokenRun();

  // REQUIRES: not empty.
  const Token* data() const { return buffer_->tokens() + first_; }
  std::uint32_t size() const { return num_tokens_; }

  // Tokens [first, first + num_tokens) of this run, in the same buffer.
  TokenRun part(std::uint32_t first, std::uint32_t num_tokens) const;

  // Keeps the first `num_tokens`. Gives memory back once more than half of a buffer of its own is
  // unused.
  void shrink(std::uint32_t num_tokens);

  // True where `next` lies behind this run in the same buffer; then join() undoes a split.
  bool is_followed_by(const TokenRun& next) const;
  void join(const TokenRun& next) { num_tokens_ += next.num_tokens_; }

 private:
  TokenArena::Buffer* buffer_ = nullptr;
  std::uint32_t first_ = 0;
  std::uint32_t num_tokens_ = 0;
};

}  // namespace radixkv
