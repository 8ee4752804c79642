#!/usr/bin/env python3
"""Compare two traces: what the reference computed for a case, and what `omni run --trace` wrote.

    compare.py REFERENCE.safetensors OURS.safetensors [--tolerance X] [--codes-may-differ]

Token ids, positions and codes must be equal; float tensors must agree within the tolerance times the largest reference value;
pixels within one 8-bit level, 99.5% of them equal. Prints a line a tensor and exits 1 on any difference.
"""
import argparse
import sys

import numpy as np
from safetensors.numpy import load_file

EXACT = ["sequences", "position_ids", "codes"]
FLOAT = ["logits", "accept_hidden", "audio_embeds", "image_embeds"]
PIXELS = ["inputs.pixel_values", "inputs.pixel_values_videos"]


def compare(reference, ours, tolerance=1e-4, codes_may_differ=False):
    """List of (tensor, fault or None, text) for every tensor of the reference that a trace must hold."""
    rows = []
    names = [n for n in EXACT + FLOAT + PIXELS + ["inputs.input_features", "wav"] if n in reference]
    names += sorted(n for n in reference if n.startswith("deepstack_embeds."))
    for name in names:
        want = reference[name]
        if name not in ours:
            rows.append((name, "missing", "not in the trace"))
            continue
        got = ours[name]
        if codes_may_differ and name in ("codes", "wav", "sequences", "logits", "accept_hidden", "position_ids"):
            if name == "logits" and np.array_equal(ours["sequences"], reference["sequences"]):
                pass
            elif name == "logits":                      # only as long as both have read the same tokens
                same = int((ours["sequences"][0] == reference["sequences"][0]).argmin()) - (reference["sequences"].shape[1] - want.shape[1])
                want, got = want[:, :max(1, same + 1)], got[:, :max(1, same + 1)]
            else:
                continue
        if want.shape != got.shape:
            rows.append((name, "shape", f"{list(got.shape)} instead of {list(want.shape)}"))
            continue
        if want.size == 0:
            rows.append((name, None, "empty, as in the reference"))
            continue
        if not np.isfinite(got).all():
            rows.append((name, "values", "not finite"))
        elif name in EXACT:
            wrong = int((want.astype(np.float64) != got.astype(np.float64)).sum())
            rows.append((name, "values" if wrong else None, f"{wrong} of {want.size} differ"))
        elif name in PIXELS:
            step = 2 / 255
            off = np.abs(want.astype(np.float64) - got) / step
            equal = float((off < 0.01).mean())
            bad = off.max() > 1.01 or equal < 0.995
            rows.append((name, "values" if bad else None, f"largest {off.max():.3f} levels, {100 * equal:.3f}% equal"))
        else:
            error = float(np.abs(want.astype(np.float64) - got).max())
            scale = 1.0 if name in ("wav", "inputs.input_features") else float(np.abs(want).max())
            limit = 1e-4 if name == "inputs.input_features" else tolerance
            rows.append((name, "values" if not error <= limit * scale else None, f"error {error / scale:.2e} of {limit:.0e}"))
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("reference")
    p.add_argument("ours")
    p.add_argument("--tolerance", type=float, default=1e-4)
    p.add_argument("--codes-may-differ", action="store_true")
    a = p.parse_args()
    rows = compare(load_file(a.reference), load_file(a.ours), a.tolerance, a.codes_may_differ)
    for name, fault, text in rows:
        print(f"{'FAIL' if fault else 'ok  '} {name}: {text}")
    sys.exit(any(fault for _, fault, _ in rows))


if __name__ == "__main__":
    main()
