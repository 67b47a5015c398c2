#!/usr/bin/env python3
"""Writes corpus/ and index_corpus/: small safetensors files and indexes, valid and malformed, one a
rule (fuzz/run.sh runs them)."""

import json
import pathlib
import struct


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file(header, data=b"", length=None):
    """A file from a JSON value or raw header bytes; `length` overrides the length field."""
    if not isinstance(header, bytes):
        header = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header) if length is None else length) + header + data


U8 = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
DTYPES = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8,
          "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16,
          "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64,
          "I64": 64, "U64": 64}


def every_dtype():
    header, at = {}, 0
    for name, bits in DTYPES.items():
        header[name] = tensor(name, [2, 4], at, at + bits)  # 8 elements fill `bits` bytes
        at += bits
    return file(header, bytes(at))


CORPUS = {
    "valid_empty": file({}),
    "valid_unpadded": file(b"{}"),
    "valid_metadata": file({"__metadata__": {"format": "pt", "é": ""}}),
    "valid_scalar": file({"s": tensor("F32", [], 0, 4)}, bytes(4)),
    "valid_zero_size": file({"a": tensor("F32", [0, 7], 0, 0), "b": tensor("U8", [2], 0, 2),
                             "c": tensor("I64", [0], 2, 2)}, bytes(2)),
    "valid_every_dtype": every_dtype(),
    "valid_unordered": file({"b": tensor("U8", [3], 2, 5), "a": tensor("U8", [2], 0, 2)}, bytes(5)),
    "valid_unicode": file({"模型.重み.😀": tensor("BF16", [1, 2], 0, 4)}, bytes(4)),
    "valid_escapes": file(b'{"a\\u0000\\n\\ud83d\\ude00":' + U8.encode() + b"}", b"x"),
    "valid_spaces": file(b'{ "a" : ' + U8.encode() + b" }\n  ", b"x"),
    "valid_nvfp4_layer": file({"l.weight": tensor("U8", [16, 16], 0, 256),
                               "l.weight_scale": tensor("F8_E4M3", [16, 2], 256, 288),
                               "l.weight_scale_2": tensor("F32", [], 288, 292)}, bytes(292)),
    "bad_short": b"\x02\0\0\0",
    "bad_length_1": file(b"{", length=1),
    "bad_length_huge": file(b"{}", length=2**64 - 1),
    "bad_length_past_end": file(b"{}", length=3),
    "bad_utf8": file(b'{"\xff":' + U8.encode() + b"}", b"x"),
    "bad_surrogate": file(b'{"\xed\xa0\x80":' + U8.encode() + b"}", b"x"),
    "bad_bom": file(b"\xef\xbb\xbf{}"),
    "bad_nul": file(b"{}\0 anything"),
    "bad_json": file(b'{"a":' + U8.encode()),
    "bad_two_objects": file(b"{}{}"),
    "bad_duplicate": file(f'{{"a":{U8},"a":{U8}}}'.encode(), b"x"),
    "bad_duplicate_field": file(b'{"a":{"dtype":"U8","dtype":"U8","shape":[1]}}', b"x"),
    "bad_dtype": file({"a": tensor("F31", [1], 0, 4)}, bytes(4)),
    "bad_overflow": file({"a": tensor("F64", [2**62, 4], 0, 0)}),
    "bad_number": file({"a": tensor("U8", [2**64], 0, 1)}, b"x"),
    "bad_float": file(b'{"a":{"dtype":"U8","shape":[1e999],"data_offsets":[0,1]}}', b"x"),
    "bad_negative": file({"a": tensor("U8", [-1], 0, 1)}, b"x"),
    "bad_size": file({"a": tensor("F32", [3], 0, 8)}, bytes(8)),
    "bad_sub_byte": file({"a": tensor("F4", [3], 0, 2)}, bytes(2)),
    "bad_overlap": file({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, bytes(6)),
    "bad_hole": file({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 3, 5)}, bytes(5)),
    "bad_trailing": file({"a": tensor("U8", [1], 0, 1)}, b"xy"),
    "bad_truncated": file({"a": tensor("U8", [9], 0, 9)}, b"x"),
    "bad_metadata": file({"__metadata__": {"a": 1}}),
    "bad_nesting": file(b'{"a":' + b"[" * 500),
}


def index(weight_map, **other):
    return json.dumps({**other, "weight_map": weight_map}, ensure_ascii=False).encode()


SHARD = "model-00001-of-00002.safetensors"
INDEX_CORPUS = {
    "valid": index({"a.weight": SHARD, "b": SHARD}, metadata={"total_size": 12}),
    "valid_empty": index({}),
    "valid_metadata": index({"a": SHARD}, metadata={"x": [1, {"y": None}], "z": 1.5}, other=True),
    "valid_unicode": index({"模型.重み.😀": "m.safetensors"}),
    "valid_order": b'{"weight_map":{"a":"b"},"metadata":{}}',
    "bad_empty": b"",
    "bad_array": b"[]",
    "bad_string": b'"weight_map"',
    "bad_no_map": b'{"metadata":{"weight_map":{}}}',
    "bad_map_type": b'{"weight_map":[{"a":"b"}]}',
    "bad_value": b'{"weight_map":{"a":1}}',
    "bad_value_object": b'{"weight_map":{"a":{"b":"c"}}}',
    "bad_duplicate": b'{"weight_map":{"a":"b","a":"c"}}',
    "bad_two_maps": b'{"weight_map":{"a":"b"},"weight_map":{}}',
    "bad_parent": index({"a": "../b.safetensors"}),
    "bad_dots": index({"a": ".."}),
    "bad_absolute": index({"a": "/etc/passwd"}),
    "bad_nul": index({"a": "b\0c"}),
    "bad_utf8": b'{"weight_map":{"\xff":"b"}}',
    "bad_bom": b"\xef\xbb\xbf{}",
    "bad_nesting": b'{"metadata":' + b"[" * 500,
    "bad_truncated": b'{"weight_map":{"a":"b"',
    "bad_trailing": b'{"weight_map":{}}{}',
}

if __name__ == "__main__":
    folder = pathlib.Path(__file__).parent / "corpus"
    folder.mkdir(exist_ok=True)
    for name, content in CORPUS.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    folder = pathlib.Path(__file__).parent / "index_corpus"
    folder.mkdir(exist_ok=True)
    for name, content in INDEX_CORPUS.items():
        (folder / f"{name}.json").write_bytes(content)
