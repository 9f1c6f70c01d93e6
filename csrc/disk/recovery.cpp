#include "disk/recovery.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "core/tier_failure.h"

namespace radixkv {
namespace {

constexpr std::int64_t kHeadersPerPiece = 512;  // 2 MiB
constexpr unsigned kMaxThreads = 8;

struct DigestHash {
  std::size_t operator()(const Digest& digest) const {
    std::size_t value;
    std::memcpy(&value, digest.data(), sizeof value);
    return value;
  }
};

struct Scan {
  std::vector<RecoveredChunk> chunks;
  std::vector<Token> tokens;
  std::vector<std::uint32_t> dropped_slots;
  DropCounts dropped;
};

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

void keep(const ChunkHeader& header, std::uint32_t slot, Scan* scan) {
  RecoveredChunk& chunk = scan->chunks.emplace_back();
  chunk.slot = slot;
  chunk.sequence = header.sequence;
  chunk.stored_bytes = header.stored_bytes;
  chunk.parent_key = header.parent_key;
  chunk.token_begin = scan->tokens.size();
  scan->tokens.insert(scan->tokens.end(), header.tokens.begin(),
                      header.tokens.begin() + header.num_tokens);
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

void scan_header(const ChunkHeader& header, std::uint32_t slot, const DiskShape& shape,
                 const Digest& group_id, Scan* scan) {
  const HeaderFault fault = check_header(header, shape, group_id);
  if (fault == HeaderFault::kEmpty) return;
  if (fault == HeaderFault::kNone) {
    return keep(header, slot, scan);
  }
  scan->dropped_slots.push_back(slot);
  if (fault == HeaderFault::kTorn) ++scan->dropped.torn;
  if (fault == HeaderFault::kForeign) ++scan->dropped.foreign;
  if (fault == HeaderFault::kKey) ++scan->dropped.wrong_key;
}

void merge(const Scan& part, Scan* whole) {
  for (RecoveredChunk chunk : part.chunks) {
    chunk.token_begin += whole->tokens.size();
    whole->chunks.push_back(chunk);
  }
  whole->tokens.insert(whole->tokens.end(), part.tokens.begin(), part.tokens.end());
  whole->dropped_slots.insert(whole->dropped_slots.end(), part.dropped_slots.begin(),
                              part.dropped_slots.end());
  whole->dropped.torn += part.dropped.torn;
  whole->dropped.foreign += part.dropped.foreign;
  whole->dropped.wrong_key += part.dropped.wrong_key;
}

// Reads and checks all headers, each for itself.
Scan scan_headers(int fd, const DiskShape& shape, const Digest& group_id) {
  const std::vector<std::uint32_t> pieces = written_pieces(fd, shape);
  Scan whole;
  std::mutex mutex;
  std::exception_ptr error;
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    Scan part;
    try {
      const auto headers = std::make_unique_for_overwrite<ChunkHeader[]>(kHeadersPerPiece);
      for (std::size_t i = next++; i < pieces.size(); i = next++) {
        const std::int64_t count =
            std::min<std::int64_t>(kHeadersPerPiece, shape.num_headers() - pieces[i]);
        read_headers(fd, shape.header_offset(pieces[i]), count * kBlockBytes, headers.get());
        for (std::uint32_t j = 0; j < count; ++j) {
          scan_header(headers[j], pieces[i] + j, shape, group_id, &part);
        }
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
    }
    const std::lock_guard lock(mutex);
    merge(part, &whole);
  };
  {
    // More threads than cores: most of the time they wait for the disk.
    const unsigned num_threads =
        std::clamp(2 * std::thread::hardware_concurrency(), 2u, kMaxThreads);
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < num_threads; ++i) threads.emplace_back(work);
  }
  if (error) std::rethrow_exception(error);
  return whole;
}

// Newest first, a chunk claims its key and its units; who comes too late is dropped. Even a chunk
// that turns out to be an orphan keeps its claim: its payload was written over what was there
// before.
void drop_superseded(const DiskShape& shape, Scan* scan) {
  std::sort(scan->chunks.begin(), scan->chunks.end(), [](const auto& a, const auto& b) {
    return a.sequence != b.sequence ? a.sequence > b.sequence : a.slot < b.slot;
  });
  std::unordered_map<Digest, bool, DigestHash> keys;
  keys.reserve(scan->chunks.size());
  std::vector<bool> claimed(shape.capacity_units);
  const auto loses = [&](const RecoveredChunk& chunk) {
    const auto begin = claimed.begin() + chunk.entry.disk_offset;
    const bool overlapped =
        std::find(begin, begin + chunk.entry.num_units, true) != begin + chunk.entry.num_units;
    std::fill(begin, begin + chunk.entry.num_units, true);
    const bool duplicate = !keys.emplace(chunk.entry.key, true).second;
    if (duplicate) {
      ++scan->dropped.duplicate;
    } else if (overlapped) {
      ++scan->dropped.overlapped;
    } else {
      return false;
    }
    scan->dropped_slots.push_back(chunk.slot);
    return true;
  };
  std::erase_if(scan->chunks, loses);
}

// From the root down, a chunk is kept if its parent is. Fills `parent_index` and `namespace_index`.
void drop_orphans(const DiskShape& shape, Scan* scan, RecoveredChunks* result) {
  std::sort(scan->chunks.begin(), scan->chunks.end(), [](const auto& a, const auto& b) {
    return a.entry.span != b.entry.span ? a.entry.span < b.entry.span : a.sequence < b.sequence;
  });
  std::unordered_map<Digest, std::int64_t, DigestHash> index_of_key;
  std::unordered_map<Digest, std::int32_t, DigestHash> index_of_namespace;
  index_of_key.reserve(scan->chunks.size());
  result->chunks.reserve(scan->chunks.size());
  for (RecoveredChunk& chunk : scan->chunks) {
    if (chunk.entry.span > 0) {
      const auto parent = index_of_key.find(chunk.parent_key);
      const DiskEntry* above =
          parent == index_of_key.end()
              ? nullptr
              : &result->chunks[static_cast<std::size_t>(parent->second)].entry;
      if (above == nullptr || above->span + 1 != chunk.entry.span ||
          above->num_tokens != shape.chunk_tokens ||
          above->namespace_digest != chunk.entry.namespace_digest) {
        ++scan->dropped.orphan;
        scan->dropped_slots.push_back(chunk.slot);
        continue;
      }
      chunk.parent_index = parent->second;
    }
    const auto [name, is_new] = index_of_namespace.emplace(
        chunk.entry.namespace_digest, static_cast<std::int32_t>(result->namespaces.size()));
    if (is_new) result->namespaces.push_back(chunk.entry.namespace_digest);
    chunk.namespace_index = name->second;
    index_of_key.emplace(chunk.entry.key, static_cast<std::int64_t>(result->chunks.size()));
    result->chunks.push_back(std::move(chunk));
  }
}

}  // namespace

RecoveredChunks recover(int fd, const DiskShape& shape, const Digest& group_id) {
  Scan scan = scan_headers(fd, shape, group_id);
  RecoveredChunks result;
  drop_superseded(shape, &scan);
  drop_orphans(shape, &scan, &result);
  result.tokens = std::move(scan.tokens);
  result.dropped_slots = std::move(scan.dropped_slots);
  result.dropped = scan.dropped;
  return result;
}

}  // namespace radixkv
