#include "net/sentinel.h"

#include <charconv>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "net/resp_connection.h"

namespace radixkv {
namespace {

[[noreturn]] void refuse(const std::string& reason) {
  throw NetFailure(NetFailure::Kind::kRefused, reason);
}

// Host and port of the server, or nullopt where this sentinel does not know it.
std::optional<std::vector<std::string>> ask(const RedisEndpoint& sentinel, const std::string& name,
                                            int wake_fd) {
  RespConnection connection(sentinel, wake_fd);
  connection.set_deadline(Stream::Clock::now() +
                          std::chrono::duration_cast<Stream::Clock::duration>(
                              std::chrono::duration<double>(2 * sentinel.timeout_s)));
  std::string request;
  append_request(&request, {"SENTINEL", "get-master-addr-by-name", name});
  try {
    connection.sign_in(sentinel);
    connection.send(request);
    return connection.read_texts();
  } catch (const RespError& error) {
    refuse(error.text);
  }
}

}  // namespace

RedisEndpoint find_server(const RedisEndpoint& endpoint, int wake_fd) {
  RedisEndpoint found = endpoint;
  std::string reason;
  for (const RedisEndpoint& sentinel : endpoint.sentinels) {
    const std::string who = "sentinel " + sentinel.host + ":" + std::to_string(sentinel.port);
    try {
      const auto place = ask(sentinel, endpoint.master_name, wake_fd);
      if (place && place->size() == 2) {
        const std::string& port = (*place)[1];
        std::from_chars(port.data(), port.data() + port.size(), found.port);
        found.host = (*place)[0];
        return found;
      }
      reason = who + " knows no " + endpoint.master_name;
    } catch (const NetFailure& failure) {
      if (failure.kind() == NetFailure::Kind::kStopped) throw;
      reason = who + ": " + failure.what();
    }
  }
  if (!endpoint.sentinels.empty()) refuse(reason);
  return found;
}

}  // namespace radixkv
