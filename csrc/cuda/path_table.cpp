#include "cuda/path_table.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>
#include <random>

namespace radixkv::cuda {
namespace {

// The kernel takes multiprocessors from the model and crowds its memory accesses: on an H200,
// matrix products beside it took half as long again. So it must win clearly.
constexpr double kKernelHandicap = 1.5;

constexpr std::int32_t kChunkTokens = 64;
constexpr std::array<std::int32_t, 4> kSizesInTokens = {4, 16, 64, 512};
constexpr std::int32_t kMaxTokens = kSizesInTokens.back();
constexpr int kRepeats = 4;

// An engine of the same rows in scratch memory, and chunks for it.
struct Scratch {
  explicit Scratch(const DeviceEngine& engine)
      : device(make_device_array<std::byte>(num_bytes(engine))),
        host(make_pinned_array<std::byte>(num_bytes(engine))),
        view(layout(engine, device.get()), engine.device()) {}

  static std::size_t num_bytes(const DeviceEngine& engine) {
    return static_cast<std::size_t>(kMaxTokens * engine.token_bytes());
  }

  static EngineLayout layout(const DeviceEngine& engine, std::byte* memory) {
    EngineLayout layout;
    layout.num_kv = engine.num_kv();
    layout.row_bytes = engine.row_bytes();
    layout.num_slots = kMaxTokens;
    for (std::int32_t row = 0; row < engine.num_rows(); ++row) {
      layout.addresses.push_back(memory + row * kMaxTokens * engine.row_bytes());
      layout.block_strides.push_back(engine.row_bytes());
    }
    return layout;
  }

  DeviceArray<std::byte> device;
  PinnedArray<std::byte> host;
  DeviceEngine view;
  Stream idle;  // what transfers are fenced on
};

// Whole chunks and a tail, for slots at random places.
struct Case {
  Case(const Scratch& scratch, std::int32_t num_tokens)
      : slots(static_cast<std::size_t>(kMaxTokens)) {
    std::iota(slots.begin(), slots.end(), 0);
    std::shuffle(slots.begin(), slots.end(), std::mt19937(1));
    slots.resize(static_cast<std::size_t>(num_tokens));
    for (std::int32_t token = 0; token < num_tokens; token += kChunkTokens) {
      chunks.push_back(scratch.host.get() + token * scratch.view.token_bytes());
      first.push_back(0);
      count.push_back(std::min(kChunkTokens, num_tokens - token));
    }
  }

  Slices slices() const { return {chunks, count, first, count, slots}; }

  std::vector<std::int64_t> slots;
  std::vector<std::byte*> chunks;
  std::vector<std::int32_t> first, count;
};

double best_us(Lane* lane, const Case& item, cudaStream_t fence) {
  using Clock = std::chrono::steady_clock;
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kRepeats; ++i) {
    const auto begin = Clock::now();
    lane->wait(lane->submit(item.slices(), fence).value());
    best = std::min(best, std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
  }
  return best;
}

}  // namespace

PathTable PathTable::measure(const DeviceEngine& engine, const LaneOptions& options) {
  const DeviceScope scope(engine.device());
  const Scratch scratch(engine);
  LaneOptions small = options;
  small.max_in_flight = 2;
  small.max_tokens = 2 * kMaxTokens;

  std::vector<PathTimes> times;
  for (const Direction direction : {Direction::kLoad, Direction::kStore}) {
    Path path = Path::kKernel;  // written only while nothing is under way that would read it
    Lane lane(scratch.view, direction, small, [&path](std::int64_t) { return path; });
    for (const std::int32_t num_tokens : kSizesInTokens) {
      const Case item(scratch, num_tokens);
      PathTimes entry{direction, num_tokens * engine.token_bytes(), {}};
      for (std::size_t i = 0; i < kPaths.size(); ++i) {
        path = kPaths[i];
        entry.us[i] = best_us(&lane, item, scratch.idle.get());
      }
      times.push_back(entry);
    }
  }
  return PathTable(std::move(times));
}

Path PathTable::choose(Direction direction, std::int64_t num_bytes) const {
  const PathTimes* a = nullptr;
  const PathTimes* b = nullptr;
  for (const PathTimes& times : times_) {
    if (times.direction != direction) continue;
    if (b != nullptr && a != nullptr && b->num_bytes >= num_bytes) break;
    a = b;
    b = &times;
  }
  const auto predict_us = [&](std::size_t path) {
    const double slope =
        (b->us[path] - a->us[path]) / static_cast<double>(b->num_bytes - a->num_bytes);
    return a->us[path] + slope * static_cast<double>(num_bytes - a->num_bytes);
  };
  return predict_us(0) * kKernelHandicap < predict_us(1) ? Path::kKernel : Path::kStaged;
}

}  // namespace radixkv::cuda
