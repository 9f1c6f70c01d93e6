#include "net/outside_objects.h"

#include <algorithm>

#include "core/checksum.h"

namespace radixkv {

OutsideObjects::OutsideObjects(RemoteContext context, RemoteCommand command, std::byte* heads)
    : context_(std::move(context)),
      command_(std::move(command)),
      heads_(heads),
      objects_(context_.objects_of(command_)) {}

std::string OutsideObjects::name(std::size_t index) const {
  return object_name(context_.shape, objects_[index].key);
}

std::span<std::byte> OutsideObjects::head(std::size_t index) const {
  return {heads_ + index * kMaxHeadBytes, objects_[index].head_bytes()};
}

std::pair<OutsideObjects::Buffer, OutsideObjects::Buffer> OutsideObjects::buffers(
    std::size_t index) const {
  const auto describe = [](std::span<std::byte> bytes) {
    return Buffer{reinterpret_cast<std::uintptr_t>(bytes.data()), bytes.size()};
  };
  return {describe(head(index)), describe(objects_[index].payload)};
}

std::size_t OutsideObjects::begin_put() {
  std::size_t index = 0;
  for (; index < objects_.size() && context_.tags->holds(command_.chunks[index]); ++index) {
    std::ranges::copy(make_head(context_.shape, objects_[index]), head(index).begin());
  }
  return index;
}

void OutsideObjects::begin_get() {
  for (const ChunkRef& chunk : command_.chunks) context_.tags->wipe(chunk);
}

std::size_t OutsideObjects::finish_get(std::size_t count) {
  for (; num_right_ < std::min(count, size()); ++num_right_) {
    const ChunkObject& object = objects_[num_right_];
    const std::uint64_t checksum = xxh3_64(object.payload.data(), object.payload.size());
    if (!is_the_one(context_.shape, object, head(num_right_), checksum)) break;
    context_.hold(command_.chunks[num_right_]);
  }
  return num_right_;
}

std::int64_t OutsideObjects::num_bytes(std::size_t num_objects) const {
  std::int64_t total = 0;
  for (std::size_t i = 0; i < num_objects; ++i) total += std::ssize(objects_[i].payload);
  return total;
}

}  // namespace radixkv
