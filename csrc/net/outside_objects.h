// OutsideObjects says of a put or get what a client outside this library has to move, for stores
// whose client exists in Python only: the objects' names, and where their heads and payloads lie.
//
//   put   begin_put ─▶ the client sends what `buffers` name
//   get   begin_get ─▶ the client fills them ─▶ finish_get compares, at once or as they come
//
// Here an object is in one piece, however long. Thread safety: one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "net/remote_command.h"

namespace radixkv {

class OutsideObjects {
 public:
  struct Buffer {
    std::uintptr_t address;
    std::size_t num_bytes;
  };

  // `heads` has room for kMaxHeadBytes an object, and outlives this.
  OutsideObjects(RemoteContext context, RemoteCommand command, std::byte* heads);
  OutsideObjects(const OutsideObjects&) = delete;
  OutsideObjects& operator=(const OutsideObjects&) = delete;

  std::size_t size() const { return objects_.size(); }
  std::string name(std::size_t index) const;
  // Its head and its payload.
  std::pair<Buffer, Buffer> buffers(std::size_t index) const;

  // Writes the heads. How many objects memory still has, from the front.
  std::size_t begin_put();

  // The extents hold nothing until finish_get.
  void begin_get();
  // The first `count` have come, which may grow from call to call. How many of them, from the
  // front, are the chunks that were asked for: those are there from now on.
  std::size_t finish_get(std::size_t count);
  // How many were, so far.
  std::size_t num_right() const { return num_right_; }

  std::int64_t num_bytes(std::size_t num_objects) const;

 private:
  std::span<std::byte> head(std::size_t index) const;

  const RemoteContext context_;
  const RemoteCommand command_;  // has the tokens that the objects view
  std::byte* const heads_;
  const std::vector<ChunkObject> objects_;
  std::size_t num_right_ = 0;  // of what came, compared so far
};

}  // namespace radixkv
