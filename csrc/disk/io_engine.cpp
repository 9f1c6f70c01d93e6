#include "disk/io_engine.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace radixkv {
namespace {

constexpr int kProbeTimeoutMs = 5000;
constexpr std::int64_t kProbeBytes = 4096;

// Throws unless a read really comes back through the engine.
void probe(IoEngine* engine, const IoEngineOptions& options) {
  engine->submit({IoRequest::Op::kRead, options.registered.data(), kProbeBytes, 0, 0});
  std::vector<IoResult> results;
  while (results.empty()) {
    pollfd wakeup{options.wakeup_fd, POLLIN, 0};
    const int ready = poll(&wakeup, 1, kProbeTimeoutMs);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) throw std::system_error(ETIMEDOUT, std::generic_category(), "probe read");
    std::uint64_t count = 0;
    [[maybe_unused]] const auto drained = read(options.wakeup_fd, &count, sizeof count);
    engine->reap(&results);
  }
  if (results.front().transferred == kProbeBytes) return;
  const std::int64_t got = results.front().transferred;
  throw std::system_error(got < 0 ? static_cast<int>(-got) : EIO, std::generic_category(),
                          "probe read");
}

}  // namespace

std::unique_ptr<IoEngine> make_io_engine(const IoEngineOptions& options, bool allow_uring,
                                         std::string* note) {
  if (allow_uring) {
    for (const bool register_buffers : {true, false}) {
      try {
        auto engine = make_uring_engine(options, register_buffers);
        probe(engine.get(), options);
        return engine;
      } catch (const std::system_error& error) {
        if (!note->empty()) *note += "; ";
        *note += register_buffers ? "io_uring with registered buffers: " : "io_uring: ";
        *note += error.what();
      }
    }
  }
  auto engine = make_thread_engine(options);
  probe(engine.get(), options);
  return engine;
}

}  // namespace radixkv
