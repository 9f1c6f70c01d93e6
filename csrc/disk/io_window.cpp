#include "disk/io_window.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace radixkv {

IoWindow::IoWindow(IoEngine* engine, IoRequest::Op op, std::int64_t piece_bytes,
                   std::uint64_t tag_base)
    : engine_(engine), op_(op), piece_bytes_(piece_bytes), tag_base_(tag_base) {}

void IoWindow::transfer(std::byte* data, std::int64_t num_bytes, std::int64_t file_offset,
                        Done done) {
  waiting_.push_back(
      std::make_shared<Transfer>(Transfer{data, num_bytes, file_offset, std::move(done)}));
  waiting_bytes_ += num_bytes;
  pump();
}

void IoWindow::set_depth(int depth) {
  depth_ = depth;
  pump();
}

bool IoWindow::wants_more() const { return waiting_bytes_ < depth_ * piece_bytes_; }

void IoWindow::pump() {
  while (!waiting_.empty() && static_cast<int>(pieces_.size()) < depth_) {
    const std::shared_ptr<Transfer> transfer = waiting_.front();
    const std::int64_t left = transfer->num_bytes - transfer->num_submitted;
    const std::int64_t length = std::min(left, piece_bytes_);
    const IoRequest request{op_, transfer->data + transfer->num_submitted, length,
                            transfer->file_offset + transfer->num_submitted, 0};
    transfer->num_submitted += length;
    waiting_bytes_ -= length;
    if (length == left) waiting_.pop_front();
    ++transfer->num_in_flight;
    submit({transfer, request});
  }
}

void IoWindow::submit(Piece piece) {
  piece.request.tag = tag_base_ + next_tag_++;
  const IoRequest request = piece.request;
  pieces_.emplace(request.tag, std::move(piece));
  engine_->submit(request);
}

void IoWindow::on_result(const IoResult& result) {
  auto node = pieces_.extract(result.tag);
  Piece& piece = node.mapped();
  Transfer& transfer = *piece.transfer;
  if (result.transferred == -EINTR || result.transferred == -EAGAIN) return submit(piece);
  if (result.transferred > 0 && result.transferred < piece.request.num_bytes) {
    piece.request.data += result.transferred;
    piece.request.num_bytes -= result.transferred;
    piece.request.file_offset += result.transferred;
    return submit(piece);
  }
  // Nothing at all is the end of the file: it was cut behind our back.
  if (result.transferred <= 0 && transfer.error == 0) {
    transfer.error = result.transferred < 0 ? static_cast<int>(-result.transferred) : EIO;
  }
  if (transfer.error != 0 && transfer.num_submitted < transfer.num_bytes) {
    waiting_bytes_ -= transfer.num_bytes - transfer.num_submitted;
    transfer.num_submitted = transfer.num_bytes;
    std::erase(waiting_, piece.transfer);
  }
  if (--transfer.num_in_flight == 0 && transfer.num_submitted == transfer.num_bytes) {
    transfer.done(transfer.error);
  }
  pump();
}

}  // namespace radixkv
