// The exception of the tiers: becomes TierError or one of its kinds in Python (errors.py).
#pragma once

#include <stdexcept>
#include <string>

namespace radixkv {

class TierFailure : public std::runtime_error {
 public:
  enum class Kind { kOther, kLocked, kFormat };

  TierFailure(Kind kind, std::string tier, std::string op, const std::string& reason)
      : std::runtime_error(reason), kind_(kind), tier_(std::move(tier)), op_(std::move(op)) {}

  Kind kind() const { return kind_; }
  const std::string& tier() const { return tier_; }
  const std::string& op() const { return op_; }

 private:
  Kind kind_;
  std::string tier_;
  std::string op_;
};

}  // namespace radixkv
