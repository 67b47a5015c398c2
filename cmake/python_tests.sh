#!/bin/sh
# Runs the Python tests of the package, of models/ and of bench/ against BUILD/lib/libhalfbyte.so:
#   cmake/python_tests.sh BUILD
# Uses the python3 it finds if that has torch >= 2.11 and pytest; else a virtual environment outside
# the tree (HALFBYTE_VENV, default ~/.cache/halfbyte/venv), made once and reused.
set -eu
cd "$(dirname "$0")/.."
build=$(cd "$1" && pwd)
venv=${HALFBYTE_VENV:-$HOME/.cache/halfbyte/venv}

usable() {
  "$1" - >/dev/null 2>&1 <<'EOF'
import numpy, pytest, safetensors, torch, transformers
assert tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 11)
EOF
}

python=python3
if ! usable "$python"; then
  python=$venv/bin/python
  if ! usable "$python"; then
    # Debian's python3 comes without what makes a virtual environment.
    python3 -c 'import ensurepip' 2>/dev/null || sh cmake/install_packages.sh python3-venv not/here
    echo "Installing torch and the test tools into $venv (once; the CUDA build is about 5 GB)"
    python3 -m venv "$venv"
    "$python" -m pip install -q 'torch>=2.11' numpy pytest expecttest safetensors transformers
  fi
fi
echo "Python tests with $("$python" -c 'import sys, torch; print(sys.executable, torch.__version__)')"
HALFBYTE_LIBRARY=$build/lib/libhalfbyte.so HALFBYTE_PROGRAM=$build/bin/halfbyte \
  PYTHONPATH=$PWD/bindings/python "$python" -m pytest -q -p no:cacheprovider \
  bindings/python/tests models bench
