#include "cuda/path_table.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace radixkv::cuda {
namespace {

// The kernel takes multiprocessors from the model and crowds its memory accesses: on an H200,
// matrix products beside it took half as long again. So it must win clearly.
constexpr double kKernelHandicap = 1.5;

constexpr std::int32_t kChunkTokens = 64;
constexpr std::array<std::int32_t, 3> kSizesInTokens = {16, 64, 512};
constexpr std::array<std::int32_t, 3> kRunsInTokens = {4, 16, 64};
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

// Slices of chunks whose tokens go to slots in runs of `run_tokens` at random places.
struct Case {
  Case(const Scratch& scratch, std::int32_t num_tokens, std::int32_t run_tokens) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(kMaxTokens / run_tokens));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
    for (std::int32_t token = 0; token < num_tokens; ++token) {
      const auto run = static_cast<std::size_t>(token / run_tokens);
      slots.push_back(order[run] * run_tokens + token % run_tokens);
    }
    for (std::int32_t token = 0; token < num_tokens; token += kChunkTokens) {
      chunks.push_back(scratch.host.get() + token * scratch.view.token_bytes());
      count.push_back(std::min(kChunkTokens, num_tokens - token));
      first.push_back(0);
    }
  }
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  std::vector<std::int64_t> slots;
  std::vector<std::byte*> chunks;
  std::vector<std::int32_t> first, count;

  Slices slices() const { return {chunks, count, first, count, slots}; }
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

double distance(std::int64_t a, std::int64_t b) {
  return std::abs(std::log2(static_cast<double>(a)) - std::log2(static_cast<double>(b)));
}

double predict_us(std::span<const PathTimes> sizes, std::size_t path, std::int64_t num_bytes) {
  std::size_t right = 1;
  while (right + 1 < sizes.size() && sizes[right].num_bytes < num_bytes) ++right;
  const PathTimes& a = sizes[right - 1];
  const PathTimes& b = sizes[right];
  const double slope = (b.us[path] - a.us[path]) / static_cast<double>(b.num_bytes - a.num_bytes);
  return a.us[path] + slope * static_cast<double>(num_bytes - a.num_bytes);
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
    Path wanted = Path::kKernel;
    Lane lane(scratch.view, direction, small, [&](auto&&...) { return wanted; });
    const auto best = [&](std::int32_t num_tokens, std::int32_t run_tokens, Path path) {
      wanted = path;  // no transfer is under way that could read it
      return best_us(&lane, Case(scratch, num_tokens, run_tokens), scratch.idle.get());
    };
    // Only the copy engine feels how long runs are.
    std::array<double, kSizesInTokens.size()> kernel_us{};
    std::array<double, kSizesInTokens.size()> staged_us{};
    for (std::size_t i = 0; i < kSizesInTokens.size(); ++i) {
      kernel_us[i] = best(kSizesInTokens[i], 1, Path::kKernel);
      staged_us[i] = best(kSizesInTokens[i], 1, Path::kStaged);
    }
    for (const std::int32_t run_tokens : kRunsInTokens) {
      for (std::size_t i = 0; i < kSizesInTokens.size(); ++i) {
        const std::int32_t num_tokens = kSizesInTokens[i];
        const double engine_us = best(num_tokens, std::min(run_tokens, num_tokens), Path::kEngine);
        times.push_back({direction,
                         run_tokens * engine.row_bytes(),
                         num_tokens * engine.token_bytes(),
                         {kernel_us[i], engine_us, staged_us[i]}});
      }
    }
  }
  return PathTable(std::move(times));
}

Path PathTable::choose(Direction direction, std::int64_t num_bytes, std::int64_t run_bytes,
                       const std::array<bool, kPaths.size()>& can_take) const {
  if (times_.empty()) return can_take[1] ? Path::kEngine : Path::kKernel;
  const std::span<const PathTimes> sizes = nearest(direction, run_bytes);
  Path best = Path::kKernel;
  double best_us = predict_us(sizes, 0, num_bytes) * kKernelHandicap;
  for (std::size_t i = 1; i < kPaths.size(); ++i) {
    const double us = predict_us(sizes, i, num_bytes);
    if (can_take[i] && us < best_us) {
      best = kPaths[i];
      best_us = us;
    }
  }
  return best;
}

std::span<const PathTimes> PathTable::nearest(Direction direction, std::int64_t run_bytes) const {
  std::span<const PathTimes> nearest;
  for (auto begin = times_.begin(); begin != times_.end();) {
    const auto end = std::find_if(begin, times_.end(), [&](const PathTimes& times) {
      return times.direction != begin->direction || times.run_bytes != begin->run_bytes;
    });
    if (begin->direction == direction &&
        (nearest.empty() ||
         distance(run_bytes, begin->run_bytes) < distance(run_bytes, nearest.front().run_bytes))) {
      nearest = {begin, end};
    }
    begin = end;
  }
  return nearest;
}

}  // namespace radixkv::cuda
