// EventLog notes what a match may find from now on, and what no longer, for those who follow from
// outside.
//
//   stored(chunk, parent, tokens, tier) … removed(chunk, tier) …        numbered without a gap
//
// Off until begin() is called. It holds at most `most_events` that nobody has taken; where more
// come the latest takes the place of the one before it, so that who follows sees a gap in what it
// takes next, and starts anew. Thread safety: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/types.h"

namespace radixkv {

// One event. The same 40 bytes as EVENT_DTYPE in events.py.
struct IndexEvent {
  std::uint64_t sequence;
  std::uint32_t id;  // of the chunk, with its generation
  std::uint32_t generation;
  std::uint32_t parent_id;  // of the chunk before it; 0xFFFFFFFF for the first of a prompt
  std::uint32_t parent_generation;
  std::uint32_t space;        // its namespace
  std::uint32_t first_token;  // where its tokens begin among those taken with it
  std::uint16_t num_tokens;   // of the chunk
  std::uint8_t is_stored;     // else removed
  std::uint8_t tier;
  std::uint32_t unused;
};
static_assert(sizeof(IndexEvent) == 40);

class EventLog {
 public:
  struct Taken {
    std::vector<IndexEvent> events;
    std::vector<Token> tokens;
  };

  void begin(std::size_t most_events) { most_events_ = most_events; }
  bool is_on() const { return most_events_ > 0; }

  // Numbers the event and keeps it; returns where to put a stored chunk's tokens.
  std::vector<Token>& add(IndexEvent event) {
    event.sequence = next_sequence_++;
    while (taken_.events.size() >= most_events_) {
      taken_.tokens.resize(taken_.events.back().first_token);
      taken_.events.pop_back();
    }
    event.first_token = static_cast<std::uint32_t>(taken_.tokens.size());
    taken_.events.push_back(event);
    return taken_.tokens;
  }

  // Everything since the last call, in order.
  Taken take() { return std::exchange(taken_, {}); }

 private:
  std::size_t most_events_ = 0;
  std::uint64_t next_sequence_ = 1;
  Taken taken_;
};

}  // namespace radixkv
