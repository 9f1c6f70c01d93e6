// Frees the GIL while it lives.
//
// Before 3.14 CPython ends a daemon thread that asks for the GIL while the interpreter goes down by
// unwinding its stack. A destructor that lets that pass ends the process, with a core file in place
// of its exit code. So the thread sleeps here until the process is gone, as it does from 3.14 on.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#ifdef __GLIBCXX__
#include <cxxabi.h>
#endif

namespace radixkv::bind {

class Unlock {
 public:
  Unlock() : thread_(PyEval_SaveThread()) {}
  ~Unlock() {
#ifdef __GLIBCXX__
    try {
      PyEval_RestoreThread(thread_);
    } catch (const abi::__forced_unwind&) {
      for (;;) pause();
    }
#else
    PyEval_RestoreThread(thread_);
#endif
  }
  Unlock(const Unlock&) = delete;
  Unlock& operator=(const Unlock&) = delete;

 private:
  PyThreadState* thread_;
};

}  // namespace radixkv::bind
