#include "disk/header_scan.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <iterator>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <type_traits>

#include "core/tier_failure.h"

namespace radixkv {
namespace {

constexpr std::int64_t kHeadersPerPiece = 512;  // 2 MiB
constexpr unsigned kMaxThreads = 8;
constexpr std::chrono::seconds kProgressInterval(1);

// They lie in mapped memory, which is given back as it is.
static_assert(std::is_trivially_destructible_v<RecoveredChunk>);

[[noreturn]] void fail(const char* what, int error) {
  throw TierFailure(TierFailure::Kind::kOther, "disk", "open",
                    std::string(what) + " the headers failed (" + std::strerror(error) + ")");
}

// The pieces of the header region that were ever written, as first slots. A file system that cannot
// tell says that all is data.
std::vector<std::uint32_t> written_pieces(int fd, const DiskShape& shape) {
  std::vector<std::uint32_t> pieces;
  const std::int64_t end = shape.header_offset(shape.num_headers());
  std::int64_t next_slot = 0;
  while (next_slot < shape.num_headers()) {
    const std::int64_t at = shape.header_offset(static_cast<std::uint32_t>(next_slot));
    const off_t data = lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data >= end) break;
    if (data > at) next_slot = data / kBlockBytes - 1;
    pieces.push_back(static_cast<std::uint32_t>(next_slot));
    next_slot += kHeadersPerPiece;
  }
  return pieces;
}

// A file that was cut ends in headers of zeros.
void read_headers(int fd, std::int64_t offset, std::int64_t num_bytes, ChunkHeader* headers) {
  auto* bytes = reinterpret_cast<std::byte*>(headers);
  std::int64_t done = 0;
  while (done < num_bytes) {
    const ssize_t got =
        pread(fd, bytes + done, static_cast<std::size_t>(num_bytes - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("reading", errno);
    if (got == 0) break;
    done += got;
  }
  std::memset(bytes + done, 0, static_cast<std::size_t>(num_bytes - done));
}

std::size_t room_for(std::size_t num_pieces, std::size_t bytes_a_header) {
  return std::max<std::size_t>(1, num_pieces * kHeadersPerPiece * bytes_a_header);
}

}  // namespace

void HeaderScan::Faults::add(const Faults& other) {
  torn += other.torn;
  foreign += other.foreign;
  wrong_key += other.wrong_key;
  cut += other.cut;
  slots.insert(slots.end(), other.slots.begin(), other.slots.end());
}

HeaderScan::HeaderScan(int fd, std::int64_t file_bytes, const DiskShape& shape,
                       const Digest& group_id, const ScanProgress& progress)
    : file_bytes_(file_bytes),
      shape_(shape),
      piece_slots_(written_pieces(fd, shape)),
      num_found_(piece_slots_.size()),
      chunks_(room_for(piece_slots_.size(), sizeof(RecoveredChunk))),
      tokens_(room_for(piece_slots_.size(), shape.chunk_tokens * sizeof(Token))) {
  read_all(fd, group_id, progress);
}

void HeaderScan::read_all(int fd, const Digest& group_id, const ScanProgress& progress) {
  const std::size_t num_pieces = piece_slots_.size();
  // More threads than cores: most of the time they wait for the disk.
  unsigned running = std::clamp(2 * std::thread::hardware_concurrency(), 2u, kMaxThreads);
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::condition_variable finished;
  std::exception_ptr error;
  const auto work = [&] {
    Faults faults;
    std::exception_ptr failure;
    try {
      const auto headers = std::make_unique_for_overwrite<ChunkHeader[]>(kHeadersPerPiece);
      for (std::size_t piece = next++; piece < num_pieces; piece = next++) {
        read_piece(fd, piece, group_id, headers.get(), &faults);
      }
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(mutex);
    faults_.add(faults);
    if (failure) error = failure;
    if (--running == 0) finished.notify_one();
  };
  std::vector<std::jthread> threads;
  for (unsigned i = running; i > 0; --i) threads.emplace_back(work);
  {
    std::unique_lock lock(mutex);
    while (!finished.wait_for(lock, kProgressInterval, [&] { return running == 0; })) {
      const auto done = static_cast<std::int64_t>(std::min(next.load(), num_pieces));
      if (progress) {
        progress(done * kHeadersPerPiece, std::ssize(piece_slots_) * kHeadersPerPiece);
      }
    }
  }
  threads.clear();
  if (error) std::rethrow_exception(error);
}

void HeaderScan::read_piece(int fd, std::size_t piece, const Digest& group_id, ChunkHeader* headers,
                            Faults* faults) {
  const std::uint32_t first = piece_slots_[piece];
  const std::int64_t count = std::min<std::int64_t>(kHeadersPerPiece, shape_.num_headers() - first);
  read_headers(fd, shape_.header_offset(first), count * kBlockBytes, headers);
  for (std::uint32_t i = 0; i < count; ++i) check(headers[i], first + i, group_id, piece, faults);
}

std::size_t HeaderScan::size() const {
  return std::accumulate(num_found_.begin(), num_found_.end(), std::size_t{0});
}

RecoveredChunk* HeaderScan::first_chunk(std::size_t piece) const {
  return reinterpret_cast<RecoveredChunk*>(chunks_.data()) + piece * kHeadersPerPiece;
}

Token* HeaderScan::first_tokens(std::size_t piece) const {
  return reinterpret_cast<Token*>(tokens_.data()) + piece * kHeadersPerPiece * shape_.chunk_tokens;
}

void HeaderScan::check(const ChunkHeader& header, std::uint32_t slot, const Digest& group_id,
                       std::size_t piece, Faults* faults) {
  const HeaderFault fault = check_header(header, shape_, group_id);
  if (fault == HeaderFault::kEmpty) return;
  const bool is_cut = fault == HeaderFault::kNone &&
                      shape_.unit_offset(header.disk_offset + header.num_units) > file_bytes_;
  if (fault == HeaderFault::kNone && !is_cut) return keep(header, slot, piece);
  faults->slots.push_back(slot);
  if (is_cut) ++faults->cut;
  if (fault == HeaderFault::kTorn) ++faults->torn;
  if (fault == HeaderFault::kForeign) ++faults->foreign;
  if (fault == HeaderFault::kKey) ++faults->wrong_key;
}

void HeaderScan::keep(const ChunkHeader& header, std::uint32_t slot, std::size_t piece) {
  const std::uint32_t at = num_found_[piece]++;
  Token* const tokens = first_tokens(piece) + std::size_t{at} * shape_.chunk_tokens;
  std::copy_n(header.tokens.data(), header.num_tokens, tokens);
  RecoveredChunk& chunk = *std::construct_at(first_chunk(piece) + at);
  chunk.slot = slot;
  chunk.sequence = header.sequence;
  chunk.stored_bytes = header.stored_bytes;
  chunk.parent_key = header.parent_key;
  chunk.tokens = tokens;
  DiskEntry& entry = chunk.entry;
  entry.state = DiskEntry::State::kReady;
  entry.num_units = header.num_units;
  entry.num_tokens = header.num_tokens;
  entry.disk_offset = header.disk_offset;
  entry.span = header.span;
  entry.key = header.key;
  entry.namespace_digest = header.namespace_digest;
  entry.checksum = header.payload_checksum;
}

}  // namespace radixkv
