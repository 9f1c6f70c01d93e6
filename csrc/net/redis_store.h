// RedisStore puts, gets and looks up chunk objects on one Redis server, over one connection.
//
// Requests of one call are pipelined, payloads go from and to the memory tier without a copy.
// What the server evicted, or what was spoilt on its way, is absent; a spoilt object is removed, so
// that it is put again.
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

  // How many of the keys, from the front, the server has. Asks for a few first, so that a miss
  // costs little.
  std::size_t lookup(std::span<const Digest> keys);

  // Throws NetFailure unless the server answers.
  void ping();

 private:
  std::vector<bool> find(std::span<const ChunkObject> objects);
  void send_object(const ChunkObject& object);
  CompletionStatus read_object(const ChunkObject& object);
  bool read_part(std::span<std::byte> head, std::span<std::byte> payload, bool* is_there);
  void remove(const ChunkObject& object);
  void limit_time(std::int64_t num_bytes);

  const ObjectShape& shape_;
  const RedisEndpoint& endpoint_;
  RespConnection connection_;
};

}  // namespace radixkv
