#include "index/tokens.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace radixkv {

namespace {

constexpr std::size_t kBlock = 64;      // tokens compared before looking at the outcome
constexpr std::size_t kAhead = 8 * 64;  // tokens asked for before they are compared

// The bits in which `have` and `kept` differ, 0 only where they are the same token.
inline std::uint64_t difference(std::int64_t have, Token kept) {
  return static_cast<std::uint64_t>(have) ^ kept;
}
inline std::uint32_t difference(std::uint32_t have, Token kept) { return have ^ kept; }
// A negative id must not pass for the token with the same bits.
inline std::uint32_t difference(std::int32_t have, Token kept) {
  const auto bits = static_cast<std::uint32_t>(have);
  return (bits ^ kept) | (bits & 0x80000000u);
}

// Written so that compilers turn a block into vector instructions; inlined into one function for
// each instruction set.
template <class Id>
[[gnu::always_inline]] inline std::size_t count_equal(const Id* have, const Token* kept,
                                                      std::size_t num_tokens) {
  std::size_t at = 0;
  for (; at + kBlock <= num_tokens; at += kBlock) {
    for (std::size_t line = 0; line < kBlock; line += 16) {
      __builtin_prefetch(kept + at + kAhead + line);
      __builtin_prefetch(have + at + kAhead + line);
    }
    decltype(difference(Id{}, Token{})) any = 0;
    for (std::size_t i = 0; i < kBlock; ++i) any |= difference(have[at + i], kept[at + i]);
    if (any != 0) break;
  }
  while (at < num_tokens && difference(have[at], kept[at]) == 0) ++at;
  return at;
}

template <class Id>
std::size_t count_equal_anywhere(const Id* have, const Token* kept, std::size_t num_tokens) {
  return count_equal(have, kept, num_tokens);
}

#if defined(__x86_64__)
template <class Id>
[[gnu::target("avx2")]] std::size_t count_equal_avx2(const Id* have, const Token* kept,
                                                     std::size_t num_tokens) {
  return count_equal(have, kept, num_tokens);
}

const bool kHasAvx2 = __builtin_cpu_supports("avx2") != 0;

template <class Id>
std::size_t count_equal_best(const Id* have, const Token* kept, std::size_t num_tokens) {
  return kHasAvx2 ? count_equal_avx2(have, kept, num_tokens)
                  : count_equal_anywhere(have, kept, num_tokens);
}
#else
template <class Id>
std::size_t count_equal_best(const Id* have, const Token* kept, std::size_t num_tokens) {
  return count_equal_anywhere(have, kept, num_tokens);
}
#endif

template <class Id>
void copy_checked(const Id* have, std::size_t position, std::size_t num_tokens, Token* out) {
  std::uint64_t any = 0;
  for (std::size_t i = 0; i < num_tokens; ++i) {
    any |= static_cast<std::uint64_t>(have[position + i]);
    out[i] = static_cast<Token>(have[position + i]);
  }
  if (any <= std::numeric_limits<Token>::max()) return;
  const Id* bad = std::find_if(have + position, have + position + num_tokens, [](Id id) {
    return static_cast<std::uint64_t>(id) > std::numeric_limits<Token>::max();
  });
  throw std::invalid_argument("tokens: expected ids 0 … 4294967295, got " + std::to_string(*bad) +
                              " at position " + std::to_string(bad - have));
}

}  // namespace

std::optional<Token> TokenView::at(std::size_t position) const {
  switch (type_) {
    case TokenType::kUint32:
      return static_cast<const std::uint32_t*>(data_)[position];
    case TokenType::kInt32: {
      const std::int32_t id = static_cast<const std::int32_t*>(data_)[position];
      if (id < 0) return std::nullopt;
      return static_cast<Token>(id);
    }
    case TokenType::kInt64:
      break;
  }
  const std::int64_t id = static_cast<const std::int64_t*>(data_)[position];
  if (id < 0 || id > std::numeric_limits<Token>::max()) return std::nullopt;
  return static_cast<Token>(id);
}

std::size_t TokenView::match(std::size_t position, const Token* run, std::size_t num_tokens) const {
  const std::size_t length = std::min(num_tokens, num_tokens_ - position);
  switch (type_) {
    case TokenType::kUint32:
      return count_equal_best(static_cast<const std::uint32_t*>(data_) + position, run, length);
    case TokenType::kInt32:
      return count_equal_best(static_cast<const std::int32_t*>(data_) + position, run, length);
    case TokenType::kInt64:
      break;
  }
  return count_equal_best(static_cast<const std::int64_t*>(data_) + position, run, length);
}

void TokenView::copy(std::size_t position, std::size_t num_tokens, Token* out) const {
  switch (type_) {
    case TokenType::kUint32:
      std::copy_n(static_cast<const std::uint32_t*>(data_) + position, num_tokens, out);
      return;
    case TokenType::kInt32:
      copy_checked(static_cast<const std::int32_t*>(data_), position, num_tokens, out);
      return;
    case TokenType::kInt64:
      copy_checked(static_cast<const std::int64_t*>(data_), position, num_tokens, out);
      return;
  }
}

TokenRun::TokenRun(TokenArena& arena, const TokenView& tokens, std::size_t position,
                   std::size_t num_tokens)
    : buffer_(arena.take(num_tokens)), num_tokens_(static_cast<std::uint32_t>(num_tokens)) {
  try {
    tokens.copy(position, num_tokens, buffer_->tokens());
  } catch (...) {
    TokenArena::give_back(buffer_);
    throw;
  }
}

TokenRun::TokenRun(const TokenRun& other)
    : buffer_(other.buffer_), first_(other.first_), num_tokens_(other.num_tokens_) {
  if (buffer_ != nullptr) ++buffer_->num_sharers;
}

TokenRun::TokenRun(TokenRun&& other) noexcept
    : buffer_(std::exchange(other.buffer_, nullptr)),
      first_(std::exchange(other.first_, 0)),
      num_tokens_(std::exchange(other.num_tokens_, 0)) {}

TokenRun& TokenRun::operator=(TokenRun other) noexcept {
  std::swap(buffer_, other.buffer_);
  std::swap(first_, other.first_);
  std::swap(num_tokens_, other.num_tokens_);
  return *this;
}

TokenRun::~TokenRun() {
  if (buffer_ != nullptr && --buffer_->num_sharers == 0) TokenArena::give_back(buffer_);
}

TokenRun TokenRun::part(std::uint32_t first, std::uint32_t num_tokens) const {
  TokenRun result(*this);
  result.first_ += first;
  result.num_tokens_ = num_tokens;
  return result;
}

void TokenRun::shrink(std::uint32_t num_tokens) {
  num_tokens_ = num_tokens;
  if (buffer_->num_sharers > 1 || num_tokens_ >= buffer_->num_tokens / 2) return;
  TokenArena::Buffer* smaller = TokenArena::of(buffer_).take(num_tokens_);
  std::copy_n(data(), num_tokens_, smaller->tokens());
  TokenArena::give_back(std::exchange(buffer_, smaller));
  first_ = 0;
}

bool TokenRun::is_followed_by(const TokenRun& next) const {
  return buffer_ == next.buffer_ && first_ + num_tokens_ == next.first_;
}

}  // namespace radixkv
