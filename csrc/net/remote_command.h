// What a remote tier's lanes share: commands, and where they find and report things.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/chunk_key.h"
#include "core/completion.h"
#include "core/types.h"
#include "core/unit_tags.h"
#include "net/chunk_object.h"

namespace radixkv {

// A put or get has chunks of one path, parents first, and their tokens one after the other. A
// lookup has tokens alone, and its completion's `num_ok` counts tokens that are there.
struct RemoteCommand {
  CommandKind kind = CommandKind::kLookup;
  std::int64_t id = 0;
  std::vector<ChunkRef> chunks;
  std::vector<Token> tokens;
  Digest parent_key{};            // of the chunk before the first
  bool injected_failure = false;  // a test wants it to fail without being begun
};

// Called on a lane's thread, or in `submit`; must not block.
using RemoteSink =
    std::function<void(CommandKind kind, const Completion& completion, std::int64_t num_bytes)>;

// The pointers outlive the lanes.
struct RemoteContext {
  ObjectShape shape;
  std::int64_t unit_bytes = 0;
  std::byte* pool = nullptr;
  UnitTags* tags = nullptr;
  RemoteSink sink;

  // The objects that a put or get is about. They view the command's tokens.
  std::vector<ChunkObject> objects_of(const RemoteCommand& command) const;

  // The chunk's bytes are down and right: clears the padding of its extent and says what it holds.
  void hold(const ChunkRef& chunk) const;

  std::span<std::byte> extent(const ChunkRef& chunk) const {
    return {pool + std::int64_t{chunk.memory_offset} * unit_bytes,
            static_cast<std::size_t>(chunk.num_units * unit_bytes)};
  }
  std::span<std::byte> payload(const ChunkRef& chunk) const {
    return extent(chunk).first(static_cast<std::size_t>(chunk.num_tokens * shape.token_bytes()));
  }
};

}  // namespace radixkv
