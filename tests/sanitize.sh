#!/usr/bin/env bash
# Runs the fast tests with the C++ built for the address and undefined-behaviour sanitizers, then
# for the thread sanitizer. Arguments go to pytest.
#
# The sanitized module is put in front of the installed one: python -S leaves out the editable install's import
# hook. Leaks are not looked for, because the interpreter keeps memory to its end.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$PWD/.venvs/dev/bin/python
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
# Random addresses can collide with a sanitizer's own map; some containers forbid to fix them.
fixed_addresses=()
if setarch -R true 2>/dev/null; then fixed_addresses=(setarch -R); fi
fast="not long and not engine and not soak and not gpu"

# Files are compiled eight together, which takes half the time. Nothing is stripped: a report names
# functions and lines.
build() { # folder, sanitizers
  local log=$1.log
  mkdir -p "$1"
  printf '[sanitize] building with %s\n' "$2" >&2
  {
    "$python" -m cmake -S csrc -B "$1" -G Ninja -DRADIXKV_SANITIZE="$2" \
      -DCMAKE_UNITY_BUILD=ON -DCMAKE_STRIP="$(command -v true)" -DPython_EXECUTABLE="$python" \
      -DCMAKE_MAKE_PROGRAM="$(dirname "$python")/ninja" \
      -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" &&
      "$python" -m cmake --build "$1"
  } >"$log" 2>&1 || { tail -50 "$log" >&2; exit 1; }
  rm -rf "$1/packages" # an earlier run left compiled Python there
  mkdir -p "$1/packages/radixkv"
  ln -sfn "$PWD"/{sglang,vllm}_ext "$1/packages/"
  ln -sfn "$PWD"/radixkv/*[!o] "$1/packages/radixkv/" # all but a module built in place
  ln -sfn "$PWD/$1"/_native*.so "$1/packages/radixkv/"
}

# A sanitizer's runtime comes before all else, and libstdc++ with it, whose throw it intercepts. Its
# report goes to a file: pytest holds back what a process writes before it is ended.
run() { # folder, runtime, arguments for pytest
  local folder=$1 runtime report=$PWD/$1/report options
  runtime="$(c++ -print-file-name="lib$2.so") $(c++ -print-file-name=libstdc++.so)"
  options=halt_on_error=1:print_stacktrace=1:log_path=$report
  shift 2
  rm -f "$report".*
  printf '[sanitize] tests with %s\n' "$folder" >&2
  LD_PRELOAD=$runtime PYTHONMALLOC=malloc PYTHONPATH=$folder/packages:$packages \
    ASAN_OPTIONS=detect_leaks=0:$options UBSAN_OPTIONS=$options \
    TSAN_OPTIONS=$options:suppressions=$PWD/tests/thread_sanitizer.txt \
    "${fixed_addresses[@]}" "$python" -S -P -m pytest -p no:cacheprovider -m "$fast" "$@" || {
    cat "$report".* >&2 2>/dev/null || true
    exit 1
  }
}

build build/asan address,undefined
(run build/asan asan "$@") >build/asan.tests 2>&1 & # one core; the other one builds meanwhile
addresses=$! failed=0
build build/tsan thread
(run build/tsan tsan "$@") || failed=1
wait $addresses && tail -1 build/asan.tests || { cat build/asan.tests >&2; failed=1; }
exit $failed
