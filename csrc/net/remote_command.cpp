#include "net/remote_command.h"

#include <algorithm>
#include <utility>

namespace radixkv {

std::vector<ChunkObject> RemoteContext::objects_of(const RemoteCommand& command) const {
  std::vector<ChunkObject> objects;
  std::span<const Token> tokens = command.tokens;
  Digest key = command.parent_key;
  for (const ChunkRef& chunk : command.chunks) {
    const auto own = tokens.first(chunk.num_tokens);
    tokens = tokens.subspan(chunk.num_tokens);
    const Digest parent_key = std::exchange(key, chunk_key(key, own));
    objects.push_back({parent_key, key, own, payload(chunk)});
  }
  return objects;
}

void RemoteContext::hold(const ChunkRef& chunk) const {
  std::ranges::fill(extent(chunk).subspan(payload(chunk).size()), std::byte{0});
  tags->set(chunk);
}

}  // namespace radixkv
