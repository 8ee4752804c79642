#!/usr/bin/env python3
"""Writes tests/data/gguf: small files made by the PyPI packages gguf and safetensors, which the unit tests read.

    python tests/reference/make_format_files.py
"""
import json
import os

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "gguf")
rng = np.random.default_rng(7)


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def keys_file():
    """Every type of value, alone and in arrays."""
    w = gguf.GGUFWriter(os.path.join(OUT, "keys.gguf"), "qwen3vlmoe")
    w.add_uint8("t.u8", 200)
    w.add_int8("t.i8", -100)
    w.add_uint16("t.u16", 60000)
    w.add_int16("t.i16", -30000)
    w.add_uint32("t.u32", 4000000000)
    w.add_int32("t.i32", -2000000000)
    w.add_uint64("t.u64", 18000000000000000000)
    w.add_int64("t.i64", -9000000000000000000)
    w.add_float32("t.f32", 0.1)
    w.add_float64("t.f64", 1e300)
    w.add_float32("t.inf", float("inf"))
    w.add_bool("t.yes", True)
    w.add_bool("t.no", False)
    w.add_string("t.str", "Größe \"x\"\n")
    w.add_key_value("t.empty", "", V.STRING)  # add_string leaves empty ones out
    w.add_string("t.nul", "a\0b")
    w.add_array("a.str", ["", "zwei", "三", "x" * 300])
    w.add_array("a.bool", [True, False, True])
    for name, kind, values in [("u8", V.UINT8, [1, 255]), ("i8", V.INT8, [-128, 127]), ("u16", V.UINT16, [1, 65535]),
                               ("i16", V.INT16, [-32768, 5]), ("u32", V.UINT32, [7, 4294967295]), ("i32", V.INT32, [-1, 2147483647]),
                               ("u64", V.UINT64, [1, 2 ** 64 - 1]), ("i64", V.INT64, [-2 ** 63, 3]), ("f32", V.FLOAT32, [0.5, -2.25]),
                               ("f64", V.FLOAT64, [0.125, 1e300])]:
        w.add_key_value("a." + name, values, V.ARRAY, sub_type=kind)
    finish(w)


def types_file():
    """One tensor of every type: two rows of one block, or of three plain values (of any bytes, the packages' own sizes)."""
    w = gguf.GGUFWriter(os.path.join(OUT, "types.gguf"), "test")
    for t in T:
        block, size = gguf.GGML_QUANT_SIZES[t]
        if t in (T.F32, T.F16, T.F64, T.I8, T.I16, T.I32, T.I64):
            kind = {T.F32: "f4", T.F16: "f2", T.F64: "f8", T.I8: "i1", T.I16: "i2", T.I32: "i4", T.I64: "i8"}[t]
            w.add_tensor(t.name, np.arange(6).reshape(2, 3).astype(kind))
        elif t != T.Q8_1:  # the package disagrees with ggml on its size; no file holds it
            w.add_tensor(t.name, rng.integers(0, 256, (2, size * (3 if block == 1 else 1)), dtype=np.uint8), raw_dtype=t)
    finish(w)


def quants_file():
    """Values, what gguf.quants makes of them as Q8_0, and what it reads back."""
    x = rng.standard_normal((24, 64)).astype(np.float32)
    x[1] *= 1e-3
    x[2] *= 1e4
    x[3] = 0
    x[4, :32] = 0
    x[5] = np.arange(64) - 32  # scale 32/127: many values near a half
    x[6] = np.where(np.arange(64) % 2, 127, 63.5)  # scale 1: halves exactly
    x[7] = -x[6]
    x[8] *= 1e-8  # the scale is a subnormal half
    x[9] *= 1e-12  # the scale is below every half
    x[10] *= 3e6  # close to the largest half
    for i in range(11, 16):
        x[i] = (rng.integers(-254, 255, 64) / 2).astype(np.float32) * np.float32(2.0 ** (i - 13))
        x[i, 0] = x[i, 32] = 127 * 2.0 ** (i - 13)
    q = gguf.quants.quantize(x, T.Q8_0)
    w = gguf.GGUFWriter(os.path.join(OUT, "q8_0.gguf"), "test")
    w.add_tensor("values", x)
    w.add_tensor("stored", q, raw_dtype=T.Q8_0)
    w.add_tensor("read", gguf.quants.dequantize(q, T.Q8_0))
    y = rng.standard_normal(256).astype(np.float32)
    y[:8] = [0, -0.0, 65519, 65520, 6e-8, 2.9e-8, np.inf, -np.inf]
    w.add_tensor("floats", y)
    with np.errstate(over="ignore"):
        w.add_tensor("as_f16", y.astype(np.float16))
    w.add_tensor("as_bf16", gguf.quants.quantize(y, T.BF16), raw_dtype=T.BF16)
    finish(w)


def safetensors_files():
    g = torch.Generator().manual_seed(3)
    f32 = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 8
    both = {"a.f32": f32, "b.f16": f32.half() + 1, "c.bf16": -f32.bfloat16()}
    save_file(both, os.path.join(OUT, "weights.safetensors"), metadata={"format": "pt"})
    save_file({**both, "d.i64": torch.arange(5), "e.scalar": torch.tensor(2.5), "f.empty": torch.zeros(0, 4)},
              os.path.join(OUT, "trace.safetensors"))
    folder = os.path.join(OUT, "shards")
    os.makedirs(folder, exist_ok=True)
    parts = [{"x.weight": torch.randn(4, 3, generator=g).bfloat16(), "x.bias": torch.randn(4, generator=g).bfloat16()},
             {"y.weight": torch.randn(2, 4, generator=g)}]
    index = {"metadata": {"total_size": sum(t.nbytes for p in parts for t in p.values())}, "weight_map": {}}
    for i, part in enumerate(parts):
        name = f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors"
        save_file(part, os.path.join(folder, name), metadata={"format": "pt"})
        index["weight_map"].update({k: name for k in part})
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump(index, f, indent=2)
        f.write("\n")
    for root, _, files in os.walk(OUT):
        for name in files:
            os.chmod(os.path.join(root, name), 0o644)


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    keys_file()
    types_file()
    quants_file()
    safetensors_files()
