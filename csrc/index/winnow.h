// Winnowing: of the grams of a text, few that stand for all of it.
//
//   tokens    t t t t t t t t t t t t t t t t t t t …
//   grams     └──g──┘                                   `gram_tokens` in a row, hashed
//               └──g──┘
//   window    [ g g g g g g g ]                         of `window` grams: the one with the least
//                 [ g g g g g g g ]                     hash is chosen, of equal ones the rightmost
//
// Wherever two texts share `min_length` = gram_tokens + window - 1 tokens they share a window, and
// so a chosen gram at the same place in it. In random text one gram in (window + 1) / 2 is chosen.
//
// Text that repeats itself every few tokens chooses a gram in each repeat; `repeat_around` tells
// such a gram, so that one deep inside need not be kept. Thread safety: free functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/types.h"

namespace radixkv {

struct GramShape {
  std::uint32_t min_length = 64;
  std::uint32_t gram_tokens = 16;
  std::uint32_t window = 49;

  // REQUIRES: min_length >= 8.
  static GramShape for_length(std::uint32_t min_length);
};

struct ChosenGram {
  std::uint64_t key;        // the hash of its tokens and the seed
  std::size_t end;          // position behind its last token
  std::size_t last_window;  // position behind the last window that chose it
};

// The chosen grams of all windows that lie in `tokens`, in order. Grams of different seeds differ.
std::vector<ChosenGram> winnow(std::span<const Token> tokens, const GramShape& shape,
                               std::uint64_t seed);

// The key of the one gram that ends at `end`. REQUIRES: gram_tokens <= end <= tokens.size().
std::uint64_t gram_key(std::span<const Token> tokens, std::size_t end, const GramShape& shape,
                       std::uint64_t seed);

// The period, at most gram_tokens, at which the text repeats itself from `before` tokens in front
// of the gram that ends at `end`; 0 where it does not, or the text begins later than that.
std::uint32_t period_before(std::span<const Token> tokens, std::size_t end, std::size_t before,
                            const GramShape& shape);

// The position behind the stretch that repeats itself with `period` and holds the gram. It is not
// looked for beyond `most`.
std::size_t end_of_repeats(std::span<const Token> tokens, std::size_t end, std::uint32_t period,
                           std::size_t most);

}  // namespace radixkv
