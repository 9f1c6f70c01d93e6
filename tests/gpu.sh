#!/usr/bin/env bash
# Builds radixkv with what is installed, and runs what needs a GPU: the tests, then again under compute-sanitizer.
# Wants nvcc, cmake, ninja, and a python3 with pybind11, pytest, numpy and torch; needs no network and no .venvs.
# XXHASH_INCLUDE_DIR names the folder of xxhash.h where the system has none. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

build=build/gpu
mkdir -p $build/packages/radixkv
printf '[gpu] building\n' >&2
{
  cmake -S csrc -B $build -G Ninja -DRADIXKV_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native \
    -DPython_EXECUTABLE="$(command -v python3)" -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" \
    ${XXHASH_INCLUDE_DIR:+-DXXHASH_INCLUDE_DIR="$XXHASH_INCLUDE_DIR"} && cmake --build $build
} >$build/log 2>&1 || { tail -50 $build/log >&2; exit 1; }
ln -sfn "$PWD"/radixkv/*[!o] $build/packages/radixkv/ # all but modules built in place
ln -sfn "$PWD"/$build/_*.so $build/packages/radixkv/

# What the sanitizers see need not be all: every kernel runs in one seed of the layouts.
export PYTHONPATH=$build/packages:$PWD
mapfile -t files < <(grep -l 'pytest\.mark\.gpu' tests/*.py) # others import what may not be there
run=(python3 -P -m pytest -q -p no:cacheprovider -m gpu "${files[@]}")
"${run[@]}" "$@"
printf '[gpu] compute-sanitizer memcheck\n' >&2
compute-sanitizer --tool memcheck --error-exitcode 9 "${run[@]}" -k "(twin and 3) or share or blocks"
printf '[gpu] compute-sanitizer racecheck\n' >&2
compute-sanitizer --tool racecheck --error-exitcode 9 "${run[@]}" -k "twin and 3 and KERNEL"
