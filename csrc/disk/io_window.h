// IoWindow keeps a few pieces of large transfers in flight at a time.
//
//   transfers [ 8 MiB ][ 8 MiB ][ 4 KiB ] ─ cut ─▶ pieces, at most `depth` in flight ─▶ IoEngine
//
// Short transfers are continued; a transfer ends with an error or with all its bytes, and then its
// callback runs.
//
// Thread safety: one thread (the disk thread's).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <unordered_map>

#include "disk/io_engine.h"

namespace radixkv {

class IoWindow {
 public:
  // Gets 0, or the errno of the first piece that failed.
  using Done = std::function<void(int error)>;

  // Tags of this window's requests are `tag_base`, `tag_base` + 1, … REQUIRES: windows on one
  // engine have bases that are 2^48 apart.
  IoWindow(IoEngine* engine, IoRequest::Op op, std::int64_t piece_bytes, std::uint64_t tag_base);

  // Queues a transfer and submits what the window allows.
  void transfer(std::byte* data, std::int64_t num_bytes, std::int64_t file_offset, Done done);

  // Takes a result whose tag belongs to this window; may run callbacks, which may transfer again.
  void on_result(const IoResult& result);

  // Pieces in flight at a time from now on.
  void set_depth(int depth);

  // Fewer bytes wait than fill the window once: time to queue more.
  bool wants_more() const;
  bool idle() const { return pieces_.empty() && waiting_.empty(); }

 private:
  struct Transfer {
    std::byte* data;
    std::int64_t num_bytes;
    std::int64_t file_offset;
    Done done;
    std::int64_t num_submitted = 0;
    int num_in_flight = 0;
    int error = 0;
  };
  struct Piece {
    std::shared_ptr<Transfer> transfer;
    IoRequest request;
  };

  void pump();
  void submit(Piece piece);

  IoEngine* const engine_;
  const IoRequest::Op op_;
  const std::int64_t piece_bytes_;
  const std::uint64_t tag_base_;
  int depth_ = 8;
  std::int64_t waiting_bytes_ = 0;
  std::uint64_t next_tag_ = 0;
  std::deque<std::shared_ptr<Transfer>> waiting_;    // not wholly submitted
  std::unordered_map<std::uint64_t, Piece> pieces_;  // in flight
};

}  // namespace radixkv
