// Sentinels watch a Redis server and its replicas: when it dies they agree on another, and tell
// whoever asks where it is. So they are asked before every connection, one after the other.
#pragma once

#include "net/endpoint.h"

namespace radixkv {

// The endpoint itself where it names no sentinels; else with the host and port that the first of
// them knows that answers. Throws NetFailure, also where none answers or none knows the name.
RedisEndpoint find_server(const RedisEndpoint& endpoint, int wake_fd);

}  // namespace radixkv
