#include "net/rungs.h"

#include <algorithm>
#include <cstring>

namespace radixkv {

std::vector<std::size_t> rung_lengths(const ObjectShape& shape, std::size_t num_tokens) {
  std::vector<std::size_t> lengths;
  for (const std::size_t sixteenths :
       {std::size_t{0}, std::size_t{1}, std::size_t{4}, std::size_t{10}}) {
    const std::size_t length = std::max<std::size_t>(1, shape.chunk_tokens * sixteenths / 16);
    if (length <= num_tokens && (lengths.empty() || length > lengths.back())) {
      lengths.push_back(length);
    }
  }
  return lengths;
}

std::string rung_name(const ObjectShape& shape, const Digest& parent,
                      std::span<const Token> tokens) {
  return object_name(shape, chunk_key(parent, tokens)) + "~";
}

std::string_view rung_value(std::span<const Token> tokens) {
  return {reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes()};
}

std::size_t read_rung(const ObjectShape& shape, std::string_view value,
                      std::span<const Token> wanted, std::vector<Token>* chunk) {
  const std::size_t num_tokens = value.size() / sizeof(Token);
  const bool is_whole = num_tokens > 0 && value.size() % sizeof(Token) == 0;
  if (!is_whole || num_tokens > shape.chunk_tokens) return 0;
  chunk->resize(num_tokens);
  std::memcpy(chunk->data(), value.data(), value.size());
  return static_cast<std::size_t>(std::ranges::mismatch(*chunk, wanted).in1 - chunk->begin());
}

}  // namespace radixkv
