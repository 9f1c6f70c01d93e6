#include "index/winnow.h"

#include <algorithm>
#include <cstring>

namespace radixkv {

namespace {

constexpr std::uint64_t kBase = 0x9E3779B97F4A7C15ull;

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// What was chosen for being small lies anywhere again.
std::uint64_t spread(std::uint64_t key) { return key * kBase; }

std::uint64_t power(std::uint64_t base, std::uint32_t exponent) {
  std::uint64_t result = 1;
  for (; exponent > 0; --exponent) result *= base;
  return result;
}

// Keys of all grams; the one that ends at e has index e - gram_tokens.
std::vector<std::uint64_t> all_keys(std::span<const Token> tokens, const GramShape& shape,
                                    std::uint64_t seed) {
  const std::uint32_t length = shape.gram_tokens;
  if (tokens.size() < length) return {};
  std::vector<std::uint64_t> keys(tokens.size() - length + 1);
  const std::uint64_t leaving = power(kBase, length);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < length; ++i) sum = sum * kBase + (tokens[i] + 1ull);
  keys[0] = mix(sum ^ seed);
  for (std::size_t i = length; i < tokens.size(); ++i) {
    sum = sum * kBase + (tokens[i] + 1ull) - (tokens[i - length] + 1ull) * leaving;
    keys[i - length + 1] = mix(sum ^ seed);
  }
  return keys;
}

// The rightmost of the least in [first, last).
std::size_t least(const std::vector<std::uint64_t>& keys, std::size_t first, std::size_t last) {
  std::size_t best = first;
  for (std::size_t i = first + 1; i < last; ++i) {
    if (keys[i] <= keys[best]) best = i;
  }
  return best;
}

}  // namespace

GramShape GramShape::for_length(std::uint32_t min_length) {
  const std::uint32_t gram_tokens = std::clamp(min_length / 4, 2u, 32u);
  return {min_length, gram_tokens, min_length - gram_tokens + 1};
}

std::vector<ChosenGram> winnow(std::span<const Token> tokens, const GramShape& shape,
                               std::uint64_t seed) {
  const std::vector<std::uint64_t> keys = all_keys(tokens, shape, seed);
  std::vector<ChosenGram> chosen;
  if (keys.size() < shape.window) return chosen;
  std::size_t best = least(keys, 0, shape.window);
  const auto add = [&] {
    const std::size_t end = best + shape.gram_tokens;
    chosen.push_back({spread(keys[best]), end, 0});
  };
  add();
  for (std::size_t last = shape.window; last < keys.size(); ++last) {
    const std::size_t first = last + 1 - shape.window;
    const std::size_t before = best;
    if (keys[last] <= keys[best]) {
      best = last;
    } else if (best < first) {
      best = least(keys, first, last + 1);
    }
    if (best == before) continue;
    chosen.back().last_window = last - 1 + shape.gram_tokens;
    add();
  }
  chosen.back().last_window = keys.size() - 1 + shape.gram_tokens;
  return chosen;
}

std::uint64_t gram_key(std::span<const Token> tokens, std::size_t end, const GramShape& shape,
                       std::uint64_t seed) {
  return spread(
      all_keys(tokens.subspan(end - shape.gram_tokens, shape.gram_tokens), shape, seed)[0]);
}

std::uint32_t period_before(std::span<const Token> tokens, std::size_t end, std::size_t before,
                            const GramShape& shape) {
  const std::size_t length = shape.gram_tokens + before;
  if (end < length) return 0;
  const Token* first = tokens.data() + (end - length);
  for (std::uint32_t period = 1; period <= shape.gram_tokens; ++period) {
    if (first[length - 1] != first[length - 1 - period]) continue;
    if (std::memcmp(first, first + period, (length - period) * sizeof(Token)) == 0) return period;
  }
  return 0;
}

std::size_t end_of_repeats(std::span<const Token> tokens, std::size_t end, std::uint32_t period,
                           std::size_t most) {
  most = std::min(most, tokens.size());
  while (end < most && tokens[end] == tokens[end - period]) ++end;
  return end;
}

}  // namespace radixkv
