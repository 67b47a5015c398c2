#!/bin/sh
# Installs a wheel into two environments and uses it there:  cmake/test_wheel.sh WHEEL
#
#   1  a virtual environment of the Python that the tests use, which sees that Python's torch
#   2  a plain folder (pip install --target), under HALFBYTE_OTHER_PYTHON if that is set: another
#      Python, or another torch by PYTHONPATH; else under the same Python
#
# Both run without a compiler and without the source tree.
set -eu
wheel=$(realpath "$1")
venv=${HALFBYTE_VENV:-$HOME/.cache/halfbyte/venv}
python=python3
"$python" -c 'import torch' 2>/dev/null || python=$venv/bin/python
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/use.py" <<'END'
import sys, time
import torch
start = time.perf_counter()
import halfbyte
seconds = time.perf_counter() - start
assert seconds < 0.3, f"import halfbyte took {seconds:.3f} s"
assert sys.argv[1] in halfbyte.__file__, halfbyte.__file__
x = torch.arange(128, dtype=torch.bfloat16).reshape(2, 64)
packed = halfbyte.quantize(x, scale="row")
assert packed.codes.shape == (2, 32) and packed.row_scale.shape == (2,)
w = halfbyte.prepare_weights(halfbyte.quantize(x, scale="computed"))
assert halfbyte.gemm(packed, w).shape == (2, 2)
run = torch.compile(lambda t: halfbyte.quantize(t, scale="row").codes, fullgraph=True, backend="aot_eager")
assert torch.equal(run(x), packed.codes)
try:
    halfbyte.quantize(x[:, :60])
except ValueError as error:
    assert "multiple of 16" in str(error)
import halfbyte.compat.flashinfer, halfbyte.compat.vllm
print(f"{sys.executable}: Python {sys.version.split()[0]}, torch {torch.__version__}: "
      f"import {1e3 * seconds:.0f} ms, {halfbyte.cpu_level()}, CUDA for "
      f"'{halfbyte.cuda_architectures()}'")
END

cd "$folder"
unset HALFBYTE_LIBRARY
"$python" -m venv --without-pip one
packages=$("$python" -c 'import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))')
site=$(one/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
echo "$packages" >"$site/torch.pth"
"$python" -m pip --python one/bin/python install -q --no-deps --no-index "$wheel"
env -u PYTHONPATH PATH=/nowhere one/bin/python use.py "$folder/one"

other=${HALFBYTE_OTHER_PYTHON:-$python}
"$python" -m pip install -q --no-deps --no-index --target two "$wheel"
PATH=/nowhere PYTHONPATH="$folder/two${PYTHONPATH:+:$PYTHONPATH}" "$(command -v "$other")" use.py "$folder/two"
