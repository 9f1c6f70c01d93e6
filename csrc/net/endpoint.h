// Where a Redis or Valkey server is, and how to talk to it. Read from a URL by tiers/redis.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace radixkv {

struct RedisEndpoint {
  std::string host;       // or `unix_path`, or `sentinels`
  std::string unix_path;  // a socket on this host
  std::uint16_t port = 6379;
  std::string username;  // empty: the default user
  std::string password;  // empty: none is asked for
  int database = 0;
  bool tls = false;
  std::string ca_file;          // empty: what the system trusts
  bool verifies_server = true;  // its certificate and name; of use only with `tls`
  double timeout_s = 1.0;       // without a byte moving, and for a connection
  std::int64_t ttl_s = 0;       // after which the server forgets what is not used; 0: never
  std::vector<RedisEndpoint> sentinels;  // these know where the server is (net/sentinel.h)
  std::string master_name;               // as what they know it
};

}  // namespace radixkv
