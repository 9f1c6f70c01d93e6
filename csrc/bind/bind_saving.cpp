// radixkv.RadixIndex: saving it, keeping a journal, and taking in what was saved.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cerrno>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "bind/index_parts.h"
#include "bind/paths.h"
#include "bind/shared_index.h"
#include "bind/unlock.h"
#include "index/index_file.h"
#include "index/radix_index.h"
#include "index/saved_index.h"

namespace radixkv::bind {

namespace {

namespace py = pybind11;
using namespace pybind11::literals;

// Calls without the GIL. What goes wrong with the file becomes an OSError or an IndexFormatError.
template <class Call>
auto with_files(Call call) {
  try {
    const Unlock unlock;
    return call();
  } catch (const std::system_error& error) {
    std::string path = error.what();  // and what is wrong with it, which Python says by itself
    const std::string reason = ": " + error.code().message();
    if (path.ends_with(reason)) path.resize(path.size() - reason.size());
    errno = error.code().value();
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
  } catch (const IndexFormatError& error) {
    const py::object type = py::module_::import("radixkv.errors").attr("IndexFormatError");
    PyErr_SetString(type.ptr(), error.what());
  }
  throw py::error_already_set();
}

// Writes down what becomes of an index. The file is touched with the index unlocked, but for the
// snapshot that it begins with; a later one is made of the file itself.
class IndexJournal {
 public:
  IndexJournal(IndexPointer index, std::string path)
      : index_(std::move(index)), path_(std::move(path)) {
    index_->write([&](RadixIndex& native) {
      native.record_changes(true);
      try {
        begin_file(native);
      } catch (...) {
        native.record_changes(false);
        throw;
      }
    });
  }

  ~IndexJournal() { stop(); }
  IndexJournal(const IndexJournal&) = delete;
  IndexJournal& operator=(const IndexJournal&) = delete;

  // What could not be written is tried again with the next call.
  void flush(bool sync) {
    const std::lock_guard lock(mutex_);
    require_open();
    append_changes();
    if (sync) file_->sync();
  }

  void compact() {
    const std::lock_guard lock(mutex_);
    require_open();
    append_changes();
    const SavedIndex saved(path_);
    if (saved.num_lost_bytes() > 0) throw IndexFormatError("the journal was damaged from outside");
    auto file = std::make_unique<IndexFile>(path_, index_->config());
    saved.save(*file);
    go_on_with(std::move(file));
  }

  void close() {
    if (!is_closed()) flush(true);
    stop();
  }

  void stop() {
    const std::lock_guard lock(mutex_);
    if (!index_) return;
    index_->write([](RadixIndex& native) { native.record_changes(false); });
    index_ = nullptr;
    file_ = nullptr;
  }

  bool is_closed() const {
    const std::lock_guard lock(mutex_);
    return index_ == nullptr;
  }
  std::uint64_t num_bytes() const {
    const std::lock_guard lock(mutex_);
    return file_ ? file_->num_bytes() : 0;
  }
  std::uint64_t num_snapshot_bytes() const {
    const std::lock_guard lock(mutex_);
    return num_snapshot_bytes_;
  }

 private:
  void begin_file(const RadixIndex& native) {
    auto file = std::make_unique<IndexFile>(path_, native.config());
    native.save(*file);
    go_on_with(std::move(file));
  }

  void go_on_with(std::unique_ptr<IndexFile> file) {
    file->publish();
    num_snapshot_bytes_ = file->num_bytes();
    file_ = std::move(file);
  }

  void append_changes() {
    std::vector<std::byte> fresh =
        index_->write([](RadixIndex& native) { return native.take_changes(); });
    pending_.insert(pending_.end(), fresh.begin(), fresh.end());
    if (pending_.empty()) return;
    file_->append(FrameKind::kJournal, pending_);
    pending_.clear();
  }

  void require_open() const {
    if (!index_) throw std::invalid_argument("journal: expected an open one, this one was closed");
  }

  mutable std::mutex mutex_;
  IndexPointer index_;
  std::string path_;
  std::unique_ptr<IndexFile> file_;
  std::uint64_t num_snapshot_bytes_ = 0;
  std::vector<std::byte> pending_;
};

std::optional<std::int64_t> capacity_bytes(const SavedIndex& saved, Tier tier) {
  const std::uint32_t num_units = saved.config().num_units[index_of(tier)];
  if (num_units >= kEndless) return std::nullopt;
  return num_units * saved.config().unit_bytes;
}

void bind_saved(py::module_& module) {
  py::class_<SavedIndex>(module, "SavedIndex", "An index as its file has it.")
      .def(py::init([](const py::bytes& path) {
             const std::string parsed = parse_path(path);
             return with_files([&] { return std::make_unique<SavedIndex>(parsed); });
           }),
           "path"_a)
      .def_property_readonly("chunk_tokens",
                             [](const SavedIndex& self) { return self.config().chunk_tokens; })
      .def_property_readonly("token_bytes",
                             [](const SavedIndex& self) { return self.config().token_bytes; })
      .def_property_readonly("unit_bytes",
                             [](const SavedIndex& self) { return self.config().unit_bytes; })
      .def_property_readonly(
          "memory_bytes",
          [](const SavedIndex& self) { return capacity_bytes(self, Tier::kMemory); })
      .def_property_readonly("disk_bytes",
                             [](const SavedIndex& self) {
                               return self.config().num_units[index_of(Tier::kDisk)] *
                                      self.config().unit_bytes;
                             })
      .def_property_readonly("tail_slack",
                             [](const SavedIndex& self) { return self.config().tail_slack; })
      .def_property_readonly("max_pinned",
                             [](const SavedIndex& self) { return self.config().max_pinned; })
      .def_property_readonly("policy", &SavedIndex::policy_name)
      .def_property_readonly(
          "now", [](const SavedIndex& self) { return self.totals().now; }, "Its last admission.")
      .def_property_readonly("checksum", &SavedIndex::checksum,
                             "Of all that counts: equal where files say the same.")
      .def_property_readonly("num_lost_bytes", &SavedIndex::num_lost_bytes,
                             "Bytes at the end that were torn or damaged, and do not count.");
}

void bind_journal(py::module_& module) {
  py::class_<IndexJournal>(module, "IndexJournal", R"(Writes down what becomes of an index.

The file begins with a snapshot, and is always one that `RadixIndex.open` reads: as the index was
with the last `flush` that came whole to the disk. Nothing is written but by these calls. Any thread
may make them, one at a time; matches and changes go on beside them.
)")
      .def(
          "flush", [](IndexJournal& self, bool sync) { with_files([&] { self.flush(sync); }); },
          py::kw_only(), "sync"_a = true,
          R"(Append what has changed since the last call.

Args:
    sync: Wait until it is on the disk. Else it survives the process, not the machine.

Raises:
    OSError: It could not be written; the next call tries again.
    ValueError: The journal was closed.
)")
      .def(
          "compact", [](IndexJournal& self) { with_files([&] { self.compact(); }); },
          "Begin the file anew with a snapshot, made of what it has; worth it once `num_bytes` has "
          "outgrown `num_snapshot_bytes` by far. Raises as `flush` does, and IndexFormatError "
          "where "
          "somebody has damaged the file.")
      .def(
          "close", [](IndexJournal& self) { with_files([&] { self.close(); }); },
          "Flush, and write nothing more. A second call does nothing.")
      .def("abandon", &IndexJournal::stop, py::call_guard<Unlock>(),
           "Write nothing more, not even what has changed.")
      .def("__enter__", [](IndexJournal& self) -> IndexJournal& { return self; })
      .def(
          "__exit__",
          [](IndexJournal& self, const py::object&, const py::object&, const py::object&) {
            with_files([&] { self.close(); });
          },
          "type"_a, "value"_a, "traceback"_a)
      .def_property_readonly("is_closed", &IndexJournal::is_closed)
      .def_property_readonly("num_bytes", &IndexJournal::num_bytes, "Of the file.")
      .def_property_readonly("num_snapshot_bytes", &IndexJournal::num_snapshot_bytes,
                             "Of the snapshot that the file begins with.");
}

}  // namespace

void bind_index_saving(py::module_& module, IndexClass& cls) {
  bind_saved(module);
  bind_journal(module);
  cls.def(
      "save",
      [](const SharedIndex& index, const py::bytes& path) {
        const std::string parsed = parse_path(path);
        with_files([&] {
          IndexFile file(parsed, index.config());
          index.read([&](const RadixIndex& native) { native.save(file); });
          file.publish();
        });
      },
      "path"_a, "See `RadixIndex.save`.");
  cls.def(
      "journal",
      [](const IndexPointer& index, const py::bytes& path) {
        const std::string parsed = parse_path(path);
        return with_files([&] { return std::make_unique<IndexJournal>(index, parsed); });
      },
      "path"_a, "See `RadixIndex.journal`.");
  cls.def(
      "restore",
      [](SharedIndex& index, const SavedIndex& saved) {
        const Unlock unlock;
        index.write([&](RadixIndex& native) { native.restore(saved); });
      },
      "saved"_a, "Becomes what was saved. ValueError where it is not empty; see `open`.");
  cls.def(
      "adopt_saved",
      [](SharedIndex& index, const SavedIndex& saved) {
        const Unlock unlock;
        return index.write([&](RadixIndex& native) { return native.adopt(saved); });
      },
      "saved"_a, "See `RadixIndex.adopt`.");
}

}  // namespace radixkv::bind
