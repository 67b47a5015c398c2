#!/usr/bin/env python3
"""Writes the headers of the stream kernel as the CPU can compile them: the functions that are PTX get
bodies of tests/emulation/cuda_emulator.h. Fails where one of them is not found, or PTX is left.

emulated_headers.py SOURCE_ROOT OUTPUT_ROOT
"""

import pathlib
import re
import sys

ROOM = "halfbyte/ops/gemm"
HEADERS = ["fragments", "values", "stream_parts", "stream_stage", "stream_walk", "stream_shared",
           "stream_multiply", "stream_sums", "stream_simple", "stream_group_walk", "stream_groups", "stream_token_search", "stream_tokens",
           "stream", "stream_gate_up"]
BODIES = {
    "smem_address": "return emulation::shared_offset(p);",
    "copy_async16": "emulation::copy_async(to, from);",
    "commit_copies": "emulation::commit_copies();",
    "wait_copies": "emulation::wait_copies(kPending);",
    "store_global16": "std::memcpy(to, &v, 16);",
    "load_shared16": "uint4 v; std::memcpy(&v, emulation::shared_at(at, 16), 16); return v;",
    "load_shared8": "uint2 v; std::memcpy(&v, emulation::shared_at(at, 8), 8); return v;",
    "load_shared4": "std::uint32_t v; std::memcpy(&v, emulation::shared_at(at, 4), 4); return v;",
    "load_shared1": "std::uint8_t v; std::memcpy(&v, emulation::shared_at(at, 1), 1); return v;",
    "store_shared4": "std::memcpy(emulation::shared_at(at, 4), &v, 4);",
    "store_shared8": "const std::uint32_t v[2] = {low, high}; "
                     "std::memcpy(emulation::shared_at(at, 8), v, 8);",
    "permute_bytes": "return emulation::permute_bytes(a, b, selector);",
    "low_half": "return emulation::half_value(pair);",
    "high_half": "return emulation::half_value(pair >> 16);",
    "xor_and": "return (a ^ b) & mask;",
    "product": "return emulation::product(a, b0, b1, c);",
    "times": "return emulation::times(a, b);",
    "wait_for_kernel_before": "",
    "let_kernel_after_start": "",
}
TEXTS = [
    (r"__CUDA_ARCH__", "HALFBYTE_EMULATED_ARCH"),
    (r"__noinline__ ", ""),  # libstdc++ has a use for the word
    (r"extern __shared__ __align__\(128\) std::uint8_t smem\[\];",
     "std::uint8_t* const smem = emulation::shared_memory;"),
    (r'asm volatile\("ld\.shared\.f32.*?\);', "std::memcpy(&v, emulation::shared_at(at, 4), 4);"),
    (r"const __half2 v =\s*__floats2half2_rn\((.*?)\);\s*pair = \*reinterpret_cast<const std::uint32_t\*>\(&v\);",
     r"pair = emulation::half_pair(\1);"),
]


def with_body(text: str, name: str, body: str) -> tuple[str, bool]:
    found = re.search(r"__forceinline__ [^\n;{}]*?\b" + name + r"\([^{};]*?\) \{", text)
    if not found:
        return text, False
    end, depth = found.end(), 1
    while depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[: found.end()] + " " + body + " " + text[end - 1:], True


def main() -> None:
    source, output = pathlib.Path(sys.argv[1]) / ROOM, pathlib.Path(sys.argv[2]) / ROOM
    output.mkdir(parents=True, exist_ok=True)
    missing = set(BODIES)
    for header in HEADERS:
        text = (source / f"gemm_cuda_{header}.cuh").read_text()
        for name, body in BODIES.items():
            text, found = with_body(text, name, body)
            if found:
                missing.discard(name)
        for pattern, replacement in TEXTS:
            text = re.sub(pattern, replacement, text, flags=re.DOTALL)
        # What sm_90 has alone is not emulated.
        left = re.sub(r"#if HALFBYTE_EMULATED_ARCH >= 900.*?#endif", "", text, flags=re.DOTALL)
        if re.search(r"\basm\b", left):
            sys.exit(f"gemm_cuda_{header}.cuh: PTX that is not emulated")
        (output / f"gemm_cuda_{header}.cuh").write_text(text)
    if missing:
        sys.exit(f"not found: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main()
