#!/bin/sh
# Makes the wheel of the Python package in DIR (default dist):  cmake/make_wheel.sh [DIR]
# One file, tagged py3-none-<platform>: for every Python from 3.10 and torch from 2.11 on. Needs no
# torch. Uses ccache where it is, and HALFBYTE_CUDA=ON|OFF|AUTO (default AUTO: nvcc and a GPU).
set -eu
cd "$(dirname "$0")/.."
out=${1:-dist}
venv=${HALFBYTE_VENV:-$HOME/.cache/halfbyte/venv}
python=python3
"$python" -m pip --version >/dev/null 2>&1 || python=$venv/bin/python
set -- --no-deps -w "$out" -C "cmake.define.HALFBYTE_CUDA=${HALFBYTE_CUDA:-AUTO}"
# scikit-build-core where it is installed; else pip fetches it for the build.
! "$python" -c 'import scikit_build_core' 2>/dev/null || set -- "$@" --no-build-isolation
! command -v ccache >/dev/null || set -- "$@" -C cmake.define.CMAKE_CXX_COMPILER_LAUNCHER=ccache \
  -C cmake.define.CMAKE_CUDA_COMPILER_LAUNCHER=ccache
"$python" -m pip wheel -q "$@" .
ls -l "$out"/halfbyte-*.whl
