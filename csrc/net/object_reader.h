// ObjectReader reads chunk objects from a Redis server, range by range, a few of them under way.
//
//   value of an object   [head][payload ………………………………………………………………]
//   ranges               [ read ][ read ][ under way ][ under way ][ … ][ … ]
//
// A server copies what it is asked for, and sends the copy once it has done all that was asked. A
// range is still in its cache then, and the next is copied while this one is received: whole values
// cost it half as much again, and who has asked for them waits.
//
// Thread safety: one thread. Calls throw NetFailure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/checksum.h"
#include "core/completion.h"
#include "net/chunk_object.h"
#include "net/resp_connection.h"

namespace radixkv {

class ObjectReader {
 public:
  // All of them outlive the reader. REQUIRES: every reply to what was asked before has been read.
  ObjectReader(const ObjectShape& shape, std::span<const ChunkObject> objects,
               RespConnection* connection);

  // Reads the next object into its payload. kAbsent where a part is missing, kCorrupt where it is
  // not the chunk that was asked for; the payload holds anything then. REQUIRES: there is a next
  // one. No reply is left unread after the last.
  CompletionStatus read_next();

 private:
  struct Range {
    std::size_t object;
    std::int64_t part;
    std::size_t first;
    std::size_t num_bytes;
    bool is_last;  // of its value
  };

  void cut(std::size_t object);
  void ask();
  std::int64_t read(const Range& range, std::span<std::byte> head, StreamedChecksum* checksum);

  const ObjectShape& shape_;
  const std::span<const ChunkObject> objects_;
  RespConnection& connection_;
  std::vector<Range> ranges_;
  std::size_t num_asked_ = 0;
  std::size_t num_read_ = 0;
  std::size_t bytes_under_way_ = 0;
};

}  // namespace radixkv
