// PathTable foretells how long each path takes on this device, from a measurement at start.
//
//   µs |         kernel .·
//      |            .·  ___      a line through the sizes measured, for each direction and path;
//      |        .·___---         beyond the last size it goes on as between the last two
//      |  __.·--  staged
//      +---------------------- bytes
//
// How long the engine's runs are makes no difference to either path.
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

inline constexpr std::array kPaths = {Path::kKernel, Path::kStaged};

// One measured case: transfers of this size.
struct PathTimes {
  Direction direction;
  std::int64_t num_bytes;
  std::array<double, kPaths.size()> us;  // in the order of kPaths, call to end, best of several
};

class PathTable {
 public:
  PathTable() = default;
  // REQUIRES: for each direction at least two sizes, growing.
  explicit PathTable(std::vector<PathTimes> times) : times_(std::move(times)) {}

  // Measures on scratch memory with this engine's rows. The device should be idle.
  static PathTable measure(const DeviceEngine& engine, const LaneOptions& options);

  std::span<const PathTimes> times() const { return times_; }

  // The path to take. REQUIRES: the table is not empty.
  Path choose(Direction direction, std::int64_t num_bytes) const;

 private:
  std::vector<PathTimes> times_;
};

}  // namespace radixkv::cuda
