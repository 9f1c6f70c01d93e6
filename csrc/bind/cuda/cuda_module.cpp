// The second native module, radixkv._cuda: built where nvcc is, useful where a driver is.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <variant>

#include "bind/unlock.h"
#include "cuda/cuda_transfer.h"
#include "transfer/cpu_copy.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace radixkv::cuda {
namespace {

using bind::Unlock;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

template <typename T>
std::span<const T> view(const Array<T>& array, const char* name) {
  if (array.ndim() != 1) throw std::invalid_argument(std::string(name) + ": expected one axis");
  return {array.data(), static_cast<std::size_t>(array.size())};
}

std::span<std::byte* const> addresses(const Array<std::uint64_t>& array, const char* name) {
  const auto numbers = view(array, name);
  return {reinterpret_cast<std::byte* const*>(numbers.data()), numbers.size()};
}

std::vector<std::int64_t> strides(const std::optional<Array<std::int64_t>>& array,
                                  const char* name) {
  if (!array) return {};
  const auto numbers = view(*array, name);
  return {numbers.begin(), numbers.end()};
}

using Slots = std::variant<Array<std::int64_t>, DeviceSlots>;

// The arrays of one call, kept alive with the views on them.
struct SliceArrays {
  Array<std::uint64_t> chunks;
  Array<std::int32_t> chunk_num_tokens, first, count;
  Slots slots;

  Slices slices() const {
    Slices result{addresses(chunks, "chunks"),
                  view(chunk_num_tokens, "chunk_num_tokens"),
                  view(first, "first"),
                  view(count, "count"),
                  {},
                  std::nullopt};
    if (const auto* array = std::get_if<Array<std::int64_t>>(&slots)) {
      result.slots = view(*array, "slots");
    } else {
      result.device_slots = std::get<DeviceSlots>(slots);
    }
    return result;
  }
};

cudaStream_t stream_of(std::uintptr_t stream) { return reinterpret_cast<cudaStream_t>(stream); }

std::string why_unavailable() {
  int num_devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&num_devices);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return num_devices > 0 ? "" : "no CUDA device";
}

void bind_layout(py::module_& module) {
  py::class_<EngineLayout>(module, "EngineLayout", "Where an engine keeps KV on the device.")
      .def(py::init([](const Array<std::uint64_t>& bases, const Array<std::int64_t>& block_strides,
                       std::int64_t num_slots, std::int64_t row_bytes, std::int32_t num_kv,
                       std::int64_t block_slots, const std::optional<Array<std::int64_t>>& in_block,
                       std::int64_t num_pieces, const std::optional<Array<std::int64_t>>& pieces) {
             const auto base_span = addresses(bases, "addresses");
             EngineLayout layout;
             layout.addresses.assign(base_span.begin(), base_span.end());
             layout.block_strides = strides(block_strides, "block_strides");
             layout.slot_strides = strides(in_block, "slot_strides");
             layout.piece_strides = strides(pieces, "piece_strides");
             layout.block_slots = block_slots;
             layout.num_pieces = num_pieces;
             layout.num_slots = num_slots;
             layout.row_bytes = row_bytes;
             layout.num_kv = num_kv;
             layout.check();
             return layout;
           }),
           "addresses"_a.noconvert(), "block_strides"_a.noconvert(), py::kw_only(), "num_slots"_a,
           "row_bytes"_a, "num_kv"_a = 2, "block_slots"_a = 1,
           "slot_strides"_a.noconvert() = py::none(), "num_pieces"_a = 1,
           "piece_strides"_a.noconvert() = py::none());
}

void bind_values(py::module_& module) {
  py::enum_<Path>(module, "Path", "How bytes move.")
      .value("KERNEL", Path::kKernel, "a kernel reads and writes pinned memory")
      .value("STAGED", Path::kStaged, "the copy engine to a slab, a kernel from there");
  py::enum_<Direction>(module, "Direction")
      .value("LOAD", Direction::kLoad)
      .value("STORE", Direction::kStore);
  py::class_<DeviceSlots>(module, "DeviceSlots",
                          "Slots in int64 arrays on the device, complete in a stream's order.")
      .def(py::init([](const std::vector<std::pair<std::uintptr_t, std::int64_t>>& parts,
                       std::uintptr_t stream) {
             DeviceSlots slots{{}, stream_of(stream)};
             for (const auto& [address, num_slots] : parts) {
               if (num_slots < 1) throw std::invalid_argument("parts: expected at least 1 slot");
               slots.parts.push_back({reinterpret_cast<const std::int64_t*>(address), num_slots});
             }
             return slots;
           }),
           "parts"_a, "stream"_a);
  py::class_<Ticket>(module, "Ticket", "Names a transfer that is on its way.")
      .def_readonly("direction", &Ticket::direction);
  py::class_<PathTimes>(module, "PathTimes", "One case of the measurement at start.")
      .def_readonly("direction", &PathTimes::direction)
      .def_readonly("num_bytes", &PathTimes::num_bytes)
      .def_readonly("us", &PathTimes::us, "Microseconds: kernel, staged.");
}

template <Direction kDirection>
std::optional<Ticket> submit(CudaTransfer& transfer, const Array<std::uint64_t>& chunks,
                             const Array<std::int32_t>& chunk_num_tokens,
                             const Array<std::int32_t>& first, const Array<std::int32_t>& count,
                             const Slots& slots, std::uintptr_t stream) {
  const SliceArrays arrays{chunks, chunk_num_tokens, first, count, slots};
  const Slices slices = arrays.slices();
  const Unlock unlock;
  return kDirection == Direction::kLoad ? transfer.load(slices, stream_of(stream))
                                        : transfer.store(slices, stream_of(stream));
}

void copy_on_cpu(Direction direction, const EngineLayout& layout,
                 const Array<std::uint64_t>& chunks, const Array<std::int32_t>& chunk_num_tokens,
                 const Array<std::int32_t>& first, const Array<std::int32_t>& count,
                 const Array<std::int64_t>& slots) {
  const SliceArrays arrays{chunks, chunk_num_tokens, first, count, slots};
  const CopyParams params = checked_params(layout, arrays.slices());
  const std::vector<CopyRun> runs = plan_runs(params);
  const auto copy = direction == Direction::kLoad ? scatter_rows : gather_rows;
  copy(params, runs, 0, params.num_rows);
}

void bind_transfer(py::module_& module) {
  py::class_<CudaTransfer>(module, "CudaTransfer",
                           "Moves KV between pinned chunks and engine memory on one GPU.")
      .def(py::init([](const EngineLayout& layout, int device, std::optional<Path> path,
                       int max_blocks, int sort_blocks, std::int64_t slab_bytes, int num_slabs,
                       std::int64_t pause_bytes, int max_in_flight, std::int64_t max_tokens) {
             const CudaOptions options{device,
                                       path,
                                       {max_blocks, sort_blocks, slab_bytes, num_slabs, pause_bytes,
                                        max_in_flight, max_tokens}};
             return std::make_unique<CudaTransfer>(layout, options);
           }),
           "layout"_a, py::kw_only(), "device"_a = 0, "path"_a = py::none(), "max_blocks"_a = 4,
           "sort_blocks"_a = 128, "slab_bytes"_a = 32 << 20, "num_slabs"_a = 3,
           "pause_bytes"_a = 64 << 20, "max_in_flight"_a = 32, "max_tokens"_a = 262144,
           py::call_guard<Unlock>())
      .def("load", &submit<Direction::kLoad>, "chunks"_a.noconvert(),
           "chunk_num_tokens"_a.noconvert(), "first"_a.noconvert(), "count"_a.noconvert(),
           "slots"_a.noconvert(), "engine_stream"_a)
      .def("store", &submit<Direction::kStore>, "chunks"_a.noconvert(),
           "chunk_num_tokens"_a.noconvert(), "first"_a.noconvert(), "count"_a.noconvert(),
           "slots"_a.noconvert(), "engine_stream"_a)
      .def(
          "hold_for_layer",
          [](CudaTransfer& transfer, Ticket ticket, std::int32_t layer, std::uintptr_t stream) {
            return transfer.hold_for_layer(ticket, layer, stream_of(stream));
          },
          "ticket"_a, "layer"_a, "stream"_a, py::call_guard<Unlock>())
      .def(
          "hold_for_end",
          [](CudaTransfer& transfer, Ticket ticket, std::uintptr_t stream) {
            return transfer.hold_for_end(ticket, stream_of(stream));
          },
          "ticket"_a, "stream"_a, py::call_guard<Unlock>())
      .def("is_done", &CudaTransfer::is_done, "ticket"_a)
      .def("path", &CudaTransfer::path, "ticket"_a, py::call_guard<Unlock>())
      .def("wait", &CudaTransfer::wait, "ticket"_a, py::call_guard<Unlock>())
      .def_property_readonly("path_times", [](const CudaTransfer& transfer) {
        const auto times = transfer.paths().times();
        return std::vector<PathTimes>(times.begin(), times.end());
      });
}

}  // namespace
}  // namespace radixkv::cuda

PYBIND11_MODULE(_cuda, module) {
  using namespace radixkv::cuda;
  module.doc() = "radixkv's data plane on NVIDIA GPUs.";
  bind_layout(module);
  bind_values(module);
  bind_transfer(module);
  module.def("copy_on_cpu", &copy_on_cpu, "direction"_a, "layout"_a, "chunks"_a.noconvert(),
             "chunk_num_tokens"_a.noconvert(), "first"_a.noconvert(), "count"_a.noconvert(),
             "slots"_a.noconvert(), "The same copy between addresses of host memory.");
  module.def("why_unavailable", &why_unavailable,
             "Empty where a GPU can be used, else the reason.");
  module.def("has_batched_copies", &driver_has_batches);
}
