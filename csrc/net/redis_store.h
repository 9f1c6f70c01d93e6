// RedisStore puts, gets and looks up chunk objects on one Redis server, over one connection.
//
// Requests of one call are pipelined, payloads go from and to the memory tier without a copy.
// What the server evicted, or what was spoilt on its way, is absent; a spoilt object is removed, so
// that it is put again. An object is put with its rungs (net/rungs.h).
//
// Thread safety: one thread. Calls throw NetFailure; then the store is of no use any more.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/completion.h"
#include "net/chunk_object.h"
#include "net/resp_connection.h"

namespace radixkv {

// How far a call came: the first `num_ok` objects are done; why not the next.
struct StoreOutcome {
  std::size_t num_ok = 0;
  CompletionStatus status = CompletionStatus::kOk;
};

class RedisStore {
 public:
  // Connects. `shape` and `endpoint` outlive the store.
  RedisStore(const ObjectShape& shape, const RedisEndpoint& endpoint, int wake_fd);

  // Writes what the server lacks; what it has counts as done. kFull where it has no room.
  StoreOutcome put(std::span<const ChunkObject> objects);

  // Reads and checks. kAbsent or kCorrupt say what the next object is. Payloads behind it hold
  // anything.
  StoreOutcome get(std::span<const ChunkObject> objects);

  // Reads the first tokens of whatever chunk begins with the object's, which is shorter than a full
  // chunk. As get() with a single object.
  CompletionStatus get_front(const ChunkObject& object);

  // How many of the tokens, from the front, the server has behind the chunk with key `parent`. Asks
  // for a few chunks first, so that a miss costs little, and for rungs where the full chunks end.
  std::size_t lookup(const Digest& parent, std::span<const Token> tokens);

  // Throws NetFailure unless the server answers.
  void ping();

 private:
  class Checksums;

  std::vector<bool> find(std::span<const ChunkObject> objects, Checksums* checksums);
  std::int64_t send_object(const ChunkObject& object, Checksums* checksums);
  std::int64_t send_rungs(const ChunkObject& object);
  std::size_t count_there(std::span<const Digest> keys);
  std::vector<Token> climb(const Digest& parent, std::span<const Token> tokens,
                           std::size_t* num_shared);
  void renew(std::span<const ChunkObject> objects);
  void remove(const ChunkObject& object);
  void limit_time(std::int64_t num_bytes);

  const ObjectShape& shape_;
  const RedisEndpoint& endpoint_;
  RespConnection connection_;
};

}  // namespace radixkv
