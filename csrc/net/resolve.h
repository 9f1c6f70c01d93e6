// resolve() finds the addresses of a host, and waits for a name server no longer than it may.
//
// What the system offers for it cannot be interrupted, and takes half a minute where name servers
// are silent. So it runs on a thread of its own, which is left behind when time is up: it ends by
// itself and touches nothing of ours.
#pragma once

#include <netdb.h>

#include <memory>
#include <string>

#include "net/stream.h"

namespace radixkv {

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

// At least one address. Throws NetFailure, also once `wake_fd` is readable. Any thread.
Addresses resolve(const std::string& host, std::uint16_t port, int wake_fd,
                  Stream::Clock::time_point until);

}  // namespace radixkv
