#include "index/eviction_policy.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

namespace radixkv {

namespace {

// 2^32 / 2^(quarter / 4)
constexpr std::array<std::uint64_t, 4> kQuarters = {4294967296u, 3611622603u, 3037000500u,
                                                    2553802834u};
constexpr std::uint64_t kLongestIdle = (1ull << 31) - 1;
constexpr std::uint64_t kLargest = (1u << 15) - 1;  // its fourth power fits

}  // namespace

const EvictionPolicy& find_policy(std::string_view name) {
  std::string known;
  for (const EvictionPolicy* policy : kPolicies) {
    if (policy->name == name) return *policy;
    known += (known.empty() ? "" : ", ") + std::string(policy->name);
  }
  throw std::invalid_argument("policy: expected one of " + known + ", got " + std::string(name));
}

std::uint32_t steps_of_weight(std::uint64_t value) {
  const std::uint64_t x = std::clamp<std::uint64_t>(value, 1, kLargest);
  return static_cast<std::uint32_t>(std::bit_width(x * x * x * x)) - 1;
}

std::uint64_t idle_for_weight(std::uint64_t idle, std::uint32_t weight) {
  return std::min(idle, kLongestIdle) * kQuarters[weight % 4] >> weight / 4;
}

}  // namespace radixkv
