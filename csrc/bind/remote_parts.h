// What remote tiers add to the classes of bind_executor.cpp and bind_index.cpp.
#pragma once

#include "bind/at_home.h"
#include "bind/shared_index.h"
#include "exec/executor.h"

namespace radixkv::bind {

using ExecutorClass = pybind11::class_<Executor, AtHome<Executor>>;

void bind_remote_options(pybind11::module_& module);
void bind_remote_commands(ExecutorClass& executor);
void bind_index_keys(IndexClass& index);

}  // namespace radixkv::bind
