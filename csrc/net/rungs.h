// Rungs find a chunk by its first few tokens, so that prompts which part inside it find the part
// that they share.
//
//   chunk   [64 tokens]      announced under the keys of its first  1 | 4 | 16 | 40  tokens
//   value   its tokens       from which its key follows: nothing else is to be known
//
// A reader knows its own next tokens, asks for all rungs of one boundary at once and takes the one
// whose tokens go along with its own for longest. Where many chunks share a rung, the last one that
// was put has it: each is as good up to there. A rung that is stale or lost is a miss, no more.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "net/chunk_object.h"

namespace radixkv {

// How many first tokens the rungs of a chunk have, shortest first, for chunks of `num_tokens`.
std::vector<std::size_t> rung_lengths(const ObjectShape& shape, std::size_t num_tokens);

// Where the chunk is announced that begins with these tokens behind the chunk with key `parent`.
std::string rung_name(const ObjectShape& shape, const Digest& parent,
                      std::span<const Token> tokens);

std::string_view rung_value(std::span<const Token> tokens);

// The tokens of a rung's value, as far as they go along with `wanted`: all of the chunk's tokens in
// `chunk`, the number that is shared as the result. 0 where the value is no rung's.
std::size_t read_rung(const ObjectShape& shape, std::string_view value,
                      std::span<const Token> wanted, std::vector<Token>* chunk);

}  // namespace radixkv
