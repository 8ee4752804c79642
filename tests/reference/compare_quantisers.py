#!/usr/bin/env python3
"""The quantisers' errors beside llama.cpp's, on a normal and on a heavy-tailed matrix (Student's t, 4 degrees of freedom):
    compare_quantisers.py --peer .../llama-quantize --omni build/omni [--rows 1024] [--width 1024]
    compare_quantisers.py --peer .../llama-quantize --store tests/data/gguf/quantise.gguf --rows 16 --width 512

Both programs quantise the same F32 GGUF file, without and with the same importance matrix; gguf.quants reads both results.
Error: root of sum w (x - y)^2 / sum w x^2, w = 1 without and the importance with the matrix. --store writes the matrices (as F16), the
importance and the peer's errors for the unit test. Exits 1 when one of ours is larger.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time

import gguf
import numpy as np

TYPES = {"q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1", "q8_0": "Q8_0", "q4_k": "Q4_K_S", "q5_k": "Q5_K_S", "q6_k": "Q6_K"}
NAMES = {"normal": "blk.0.attn_q.weight", "heavy": "blk.0.ffn_up.weight"}


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_model(path, matrices, width):
    w = gguf.GGUFWriter(path, "llama")
    for add, value in ((w.add_block_count, 1), (w.add_context_length, 128), (w.add_embedding_length, width), (w.add_feed_forward_length, width),
                       (w.add_head_count, 8), (w.add_head_count_kv, 8), (w.add_layer_norm_rms_eps, 1e-5), (w.add_file_type, 0)):
        add(value)
    for name, x in matrices.items():
        w.add_tensor(NAMES[name], x)
    w.add_tensor("blk.0.attn_norm.weight", np.ones(width, np.float32))
    finish(w)


def write_imatrix(path, importance):
    w = gguf.GGUFWriter(path, "")
    w.add_string("general.type", "imatrix")
    w.add_array("imatrix.datasets", ["random"])
    w.add_uint32("imatrix.chunk_count", 10)
    w.add_uint32("imatrix.chunk_size", 512)
    for name in NAMES.values():
        w.add_tensor(name + ".in_sum2", (importance * 100)[None])
        w.add_tensor(name + ".counts", np.array([[100]], np.float32))
    finish(w)


def error(x, y, w):
    return float(np.sqrt((w * (x - y).astype(np.float64) ** 2).sum() / (w * x.astype(np.float64) ** 2).sum()))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--peer", required=True)
    p.add_argument("--omni")
    p.add_argument("--store")
    p.add_argument("--rows", type=int, default=1024)
    p.add_argument("--width", type=int, default=1024)
    a = p.parse_args()
    rng = np.random.default_rng(5)
    shape = (a.rows, a.width)
    matrices = {"normal": rng.standard_normal(shape) * 0.02, "heavy": rng.standard_t(4, shape) * 0.02}
    matrices = {k: v.astype(np.float16).astype(np.float32) for k, v in matrices.items()}
    importance = np.exp(1.5 * rng.standard_normal(a.width)).astype(np.float32)
    peers, worse = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        source, imatrix, out = (os.path.join(folder, n) for n in ("f32.gguf", "imatrix.gguf", "out.gguf"))
        write_model(source, matrices, a.width)
        write_imatrix(imatrix, importance)

        def errors(command, w, kind):
            begin = time.time()
            done = subprocess.run(command, capture_output=True, text=True)
            seconds = time.time() - begin
            if done.returncode:
                sys.exit(" ".join(command) + "\n" + done.stdout[-2000:] + done.stderr[-2000:])
            found = {}
            for t in gguf.GGUFReader(out).tensors:
                for k, x in matrices.items():
                    if t.name == NAMES[k]:
                        if t.tensor_type.name.lower() != kind:
                            sys.exit(f"{command[0]} made {t.tensor_type.name} of {t.name}, not {kind}")
                        found[k] = error(x, gguf.quants.dequantize(t.data, t.tensor_type), w)
            os.unlink(out)
            return found, seconds

        print(f"{'type':6} {'importance':10} {'matrix':7} {'llama.cpp':>10} {'omni':>10} {'ratio':>7}   seconds")
        for kind, peer_kind in TYPES.items():
            for weighted in (False, True):
                w = importance.astype(np.float64) if weighted else np.float64(1)
                flags = ["--imatrix", imatrix] if weighted else []
                peer, peer_time = errors([a.peer, *flags, "--pure", source, out, peer_kind, "2"], w, kind)
                ours, time_ = errors([a.omni, "quantize", source, out, kind, "-t", "2", *flags], w, kind) if a.omni else ({}, 0)
                for name in matrices:
                    peers[f"peer.{kind}.{name}" + (".weighted" if weighted else "")] = peer[name]
                    if a.omni:
                        ratio = ours[name] / peer[name]
                        worse += ratio > 1
                        print(f"{kind:6} {'given' if weighted else '-':10} {name:7} {peer[name]:10.6f} {ours[name]:10.6f} {ratio:7.4f}   "
                              f"{peer_time:.2f} {time_:.2f}")
    if a.store:
        w = gguf.GGUFWriter(a.store, "test")
        for key, value in peers.items():
            w.add_float32(key, value)
        for name, x in matrices.items():
            w.add_tensor(name, x.astype(np.float16))
        w.add_tensor("importance", importance)
        finish(w)
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(main())
