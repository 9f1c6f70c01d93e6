// Which leaf of a tier leaves first. A policy says how heavy a leaf is, and no more:
//
//   weight 0   │ oldest … newest │          of leaves that weigh the same, the oldest is in front;
//   weight 4   │ oldest … newest │          of the leaves in front, the one leaves that has been
//   weight 9   │ oldest … newest │          idle the longest for its weight
//
// Four steps of weight double the time that a leaf may be idle. Only leaves are asked about, so
// every policy keeps prefixes whole. "Idle" is counted in admissions.
//
// The order is total and depends on the calls alone: of two idle as long for their weight the
// lighter one leaves, of two as heavy and as old the deeper one, then the smaller id. Replicas on
// several ranks agree.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace radixkv {

inline constexpr std::uint32_t kNumWeights = 64;

// What a weight may depend on. A later use never makes a leaf lighter.
struct LeafFacts {
  std::uint32_t position = 0;  // of its first token in the prompt
  // Admissions that found it, after the one that stored it: the most at any one point at or below
  // it. So a prompt that goes on and on counts one, and a text that many prompts share counts all.
  std::uint16_t num_uses = 0;
};

struct EvictionPolicy {
  std::string_view name;
  // 0 … kNumWeights - 1; nullptr where all weigh the same.
  std::uint8_t (*weight)(const LeafFacts& facts);
  bool lightest_first;      // what is lighter leaves first, however short it has been idle
  bool is_renewed_by_uses;  // false: what counts is the time since it was stored
  // How much longer what was found once may be idle than what was not, weight kFoundOnce against 0,
  // is what a GhostList has learnt so far. What is heavier is so by as many steps more.
  bool learns = false;
};

// Twice as long.
inline constexpr std::uint32_t kFoundOnce = 4;

// One a file, policy_….cpp.
extern const EvictionPolicy kFifo;
extern const EvictionPolicy kLru;
extern const EvictionPolicy kLfu;
extern const EvictionPolicy kSlru;
extern const EvictionPolicy kArc;
extern const EvictionPolicy kCost;
extern const EvictionPolicy kReuse;

inline constexpr std::array kPolicies = {&kReuse, &kLru, &kFifo, &kLfu, &kSlru, &kArc, &kCost};

// The policy of that name; std::invalid_argument that names them all where there is none.
const EvictionPolicy& find_policy(std::string_view name);

// 4 * log2(value), rounded down: steps of weight that make up for a factor of `value`. 0 for 0.
std::uint32_t steps_of_weight(std::uint64_t value);

// What has been idle so long, in admissions, is compared by this: idle time divided by
// 2^(weight/4).
std::uint64_t idle_for_weight(std::uint64_t idle, std::uint32_t weight);

}  // namespace radixkv
