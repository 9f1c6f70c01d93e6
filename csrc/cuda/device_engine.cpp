#include "cuda/device_engine.h"

#include <utility>
#include <vector>

#include "cuda/copy_plan.h"

namespace radixkv::cuda {

DeviceEngine::DeviceEngine(EngineLayout layout, int device)
    : layout_(std::move(layout)), device_(device) {
  layout_.check();
  vector_bytes_ = engine_vector_bytes(layout_.params());

  const DeviceScope scope(device);
  std::vector<EngineRow> rows(layout_.addresses.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].base = layout_.addresses[i];
    rows[i].block_stride = layout_.block_strides[i];
    rows[i].slot_stride = layout_.block_slots > 1 ? layout_.slot_strides[i] : 0;
    rows[i].piece_stride = layout_.num_pieces > 1 ? layout_.piece_strides[i] : 0;
  }
  rows_ = make_device_array<EngineRow>(rows.size());
  RADIXKV_CUDA_CHECK(cudaMemcpy(rows_.get(), rows.data(), rows.size() * sizeof(EngineRow),
                                cudaMemcpyHostToDevice));
}

}  // namespace radixkv::cuda
