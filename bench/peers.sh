#!/bin/bash
# The comparisons with peers on a GPU machine that has torch, Triton and CUDA, but no network.
#
#   bench/peers.sh pack FOLDER [BUILD]    here: all that they need into FOLDER, 6 MB. BUILD
#       (build-cuda) has lib/libhalfbyte.so and libhalfbyte_torch.so with CUDA kernels. Wheels are
#       fetched by pip once, into $HALFBYTE_PEERS (~/.cache/halfbyte/peers); nvcc compiles FlashInfer's
#       kernel.
#   FOLDER/peers.sh rmsnorm|gemm OUT [OPTION..]    there: bench/torch_cuda.py or gemm_peers.py with
#       these options; OUT gets peers-rmsnorm.json or peers-gemm.json and the log. What Humming, Triton
#       and inductor compile stays in /tmp/halfbyte-peers for the next call. Humming's kernels, 33 a
#       shape, come back in OUT as humming-cache.tar.xz if there are new ones: put into
#       $HALFBYTE_PEERS, it is packed too, and nothing is compiled there again.
set -euo pipefail

LIGER=liger-kernel==0.8.5
HUMMING=humming-kernels==0.1.19
FLASHINFER=flashinfer-python==0.7.2.post1
LIMIT_S=${LIMIT_S:-500} # of one comparison
WORK=/tmp/halfbyte-peers

wheel() { # NAME==VERSION, here; prints its file
  local name=${1%%==*} version=${1#*==}
  name=${name//-/_}
  compgen -G "$STORE/$name-$version-*.whl" && return
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp --platform manylinux_2_28_x86_64 -d "$STORE" "$1" >&2
  compgen -G "$STORE/$name-$version-*.whl"
}

pack() {
  local folder=$1 build=${2:-build-cuda} root scratch
  root=$(cd "$(dirname "$0")/.." && pwd)
  STORE=${HALFBYTE_PEERS:-$HOME/.cache/halfbyte/peers}
  mkdir -p "$STORE" "$folder"
  local library=$STORE/libflashinfer_norm-${FLASHINFER#*==}.so
  if [ ! -f "$library" ] || [ "$root/bench/flashinfer_norm.cu" -nt "$library" ]; then
    python3 -m zipfile -e "$(wheel $FLASHINFER)" "$STORE/flashinfer"
    # FlashInfer's own flags
    "$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)" -std=c++17 -O3 -use_fast_math -DNDEBUG \
      -gencode=arch=compute_90a,code=sm_90a -shared -Xcompiler -fPIC \
      -I"$STORE/flashinfer/flashinfer/data/include" "$root/bench/flashinfer_norm.cu" -o "$library"
    rm -r "$STORE/flashinfer"
  fi
  scratch=$(mktemp -d)
  mkdir -p "$scratch/lib" "$scratch/whl"
  cp -L "$build/lib/libhalfbyte.so" "$build/lib/libhalfbyte_torch.so" "$scratch/lib"
  cp "$library" "$scratch/lib/libflashinfer_norm.so"
  ln -s libhalfbyte.so "$scratch/lib/libhalfbyte.so.0"
  strip "$scratch"/lib/*.so
  cp "$(wheel $LIGER)" "$(wheel $HUMMING)" "$scratch/whl"
  mkdir -p "$scratch/bindings/python" "$scratch/bench"
  cp -r "$root/bindings/python/halfbyte" "$scratch/bindings/python"
  cp "$root"/bench/*.py "$root"/bench/*.json "$scratch/bench"
  [ ! -f "$STORE/humming-cache.tar.xz" ] || cp "$STORE/humming-cache.tar.xz" "$scratch"
  printf '{"commit": "%s", "flashinfer": "%s"}\n' "$(git -C "$root" describe --always --dirty)" \
    "${FLASHINFER#*==}" >"$scratch/bench/packed.json"
  tar -C "$scratch" --exclude=__pycache__ -cJf "$folder/peers.tar.xz" .
  rm -r "$scratch"
  cp "$root/bench/peers.sh" "$folder/peers.sh"
  ls -l "$folder"
}

humming_kernels() { (cd $WORK/humming/cache && find . -name kernel.cubin); }

run() {
  local what=$1 out=$2 before
  shift 2
  mkdir -p "$out" $WORK/humming/cache
  tar -C $WORK -xJf "$(dirname "$0")/peers.tar.xz"
  if [ ! -d $WORK/site ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target $WORK/site \
      $WORK/whl/*.whl
    # The cache knows Humming's headers by name and time.
    find $WORK/site/humming -name '*.cuh' -exec touch -d 2026-01-01T00:00:00Z {} +
    [ ! -f $WORK/humming-cache.tar.xz ] || tar -C $WORK/humming/cache -xJf $WORK/humming-cache.tar.xz
  fi
  before=$(humming_kernels | wc -l)
  export PYTHONPATH=$WORK/bindings/python:$WORK/site PYTHONUNBUFFERED=1
  export HALFBYTE_LIBRARY=${HALFBYTE_LIBRARY:-$WORK/lib/libhalfbyte.so}
  export HUMMING_CACHE_DIR=$WORK/humming/cache HUMMING_TMP_DIR=$WORK/humming
  export TORCHINDUCTOR_CACHE_DIR=$WORK/inductor TRITON_CACHE_DIR=$WORK/triton
  case $what in
    rmsnorm)
      timeout "$LIMIT_S" python3 $WORK/bench/torch_cuda.py --warm-processes "$(nproc)" \
        --flashinfer $WORK/lib/libflashinfer_norm.so --json "$out/peers-rmsnorm.json" "$@" 2>&1 |
        tee "$out/peers-rmsnorm.log"
      ;;
    gemm)
      timeout "$LIMIT_S" python3 $WORK/bench/gemm_peers.py --json "$out/peers-gemm.json" "$@" 2>&1 |
        tee "$out/peers-gemm.log"
      [ "$(humming_kernels | wc -l)" = "$before" ] ||
        humming_kernels | tar -C $WORK/humming/cache -cJf "$out/humming-cache.tar.xz" -T -
      ;;
  esac
}

case ${1:-} in
  pack) shift && pack "$@" ;;
  rmsnorm | gemm) run "$@" ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
