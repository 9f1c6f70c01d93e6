#include "core/chunk_key.h"

#include <openssl/evp.h>

#include <bit>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>

namespace radixkv {
namespace {

static_assert(std::endian::native == std::endian::little, "keys hash tokens as they lie in memory");

constexpr std::string_view kRootLabel = "radixkv-root";

// OpenSSL 3 looks the algorithm up on every one-shot call, which costs more than the hash itself.
class Sha256 {
 public:
  Sha256() : algorithm_(EVP_MD_fetch(nullptr, "SHA256", nullptr)), context_(EVP_MD_CTX_new()) {
    if (algorithm_ == nullptr || context_ == nullptr) throw std::bad_alloc();
  }

  Digest operator()(std::span<const std::byte> head, std::span<const std::byte> tail) {
    std::array<unsigned char, 32> full;
    if (EVP_DigestInit_ex2(context_.get(), algorithm_.get(), nullptr) != 1 ||
        EVP_DigestUpdate(context_.get(), head.data(), head.size()) != 1 ||
        EVP_DigestUpdate(context_.get(), tail.data(), tail.size()) != 1 ||
        EVP_DigestFinal_ex(context_.get(), full.data(), nullptr) != 1) {
      throw std::bad_alloc();
    }
    Digest digest;
    std::memcpy(digest.data(), full.data(), digest.size());
    return digest;
  }

 private:
  struct Free {
    void operator()(EVP_MD* algorithm) const { EVP_MD_free(algorithm); }
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD, Free> algorithm_;
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

Sha256& thread_sha256() {
  thread_local Sha256 sha256;
  return sha256;
}

}  // namespace

Digest root_key(const Digest& namespace_digest) {
  return thread_sha256()(std::as_bytes(std::span(kRootLabel)), namespace_digest);
}

Digest chunk_key(const Digest& parent, std::span<const Token> tokens) {
  return thread_sha256()(parent, std::as_bytes(tokens));
}

}  // namespace radixkv
