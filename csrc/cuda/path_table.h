// PathTable foretells how long each path takes on this device, from a measurement at start.
//
//   µs |          · engine, short runs        a line through the sizes measured, for each
//   direction,
//      |      ·        ___· staged            path and length of runs; beyond the last size it goes
//      |   ·  ___.----    · kernel            on as between the last two
//      +--------------------- bytes
//
// Thread safety: never changes after construction.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "cuda/lane.h"

namespace radixkv::cuda {

inline constexpr std::array kPaths = {Path::kKernel, Path::kEngine, Path::kStaged};

// One measured case: transfers of this size, in runs of this length on the engine's side.
struct PathTimes {
  Direction direction;
  std::int64_t run_bytes;
  std::int64_t num_bytes;
  std::array<double, kPaths.size()> us;  // in the order of kPaths, call to end, best of several
};

class PathTable {
 public:
  PathTable() = default;
  // Cases with equal direction and run_bytes follow each other, by growing num_bytes, at least two.
  explicit PathTable(std::vector<PathTimes> times) : times_(std::move(times)) {}

  // Measures on scratch memory with this engine's rows. The device should be idle.
  static PathTable measure(const DeviceEngine& engine, const LaneOptions& options);

  std::span<const PathTimes> times() const { return times_; }

  // The path to take among those for which `can_take` is set, in the order of kPaths; the kernel
  // can take anything. Without measurements: the copy engine where it can.
  Path choose(Direction direction, std::int64_t num_bytes, std::int64_t run_bytes,
              const std::array<bool, kPaths.size()>& can_take) const;

 private:
  // The cases with the length of runs that is nearest.
  std::span<const PathTimes> nearest(Direction direction, std::int64_t run_bytes) const;

  std::vector<PathTimes> times_;
};

}  // namespace radixkv::cuda
