#!/usr/bin/env python3
"""Blocks of every quantised type that can be read, and what gguf.quants makes of them:
    make_block_files.py tests/data/gguf/blocks.gguf

For each type: NAME.stored, 3 rows of two large or four small blocks of random bytes (scales finite halves of both signs, of
ordinary and of subnormal size), and NAME.read, the same as float32.
"""
import sys
import gguf, numpy as np
from gguf.constants import GGMLQuantizationType as T

# where a block's halves lie
HALVES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2],
          T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: []}

rng = np.random.default_rng(11)
w = gguf.GGUFWriter(sys.argv[1], "test")
for t, halves in HALVES.items():
    block, size = gguf.GGML_QUANT_SIZES[t]
    per_row = 2 if block == 256 else 4
    q = rng.integers(0, 256, (3, per_row, size), dtype=np.uint8)
    for at in halves:
        d = (rng.standard_normal((3, per_row)) * np.array([[1e-2], [30], [1e-6]])).astype(np.float16)
        q[:, :, at:at + 2] = d[..., None].view(np.uint8)
    q = q.reshape(3, -1)
    w.add_tensor(t.name + ".stored", q, raw_dtype=t)
    w.add_tensor(t.name + ".read", np.ascontiguousarray(gguf.quants.dequantize(q, t)))
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
