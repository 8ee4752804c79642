#!/usr/bin/env python3
"""What the engine costs beside the bare decoder: decoding of one conversation and of eight, with and without it.

    bench/engine_cost.py build/omni [--model F.gguf] [--layers 12] [--type q4_k_m] [--rounds 5]

Without --model a random thinker is made once. Rounds alternate in what comes first; medians are of each round's ratio, so
that what else the machine does meets both. Ends with 1 when a bar does not hold: one conversation 0.99, eight 0.95.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

BARS = [("one conversation", "tg32", "engine tg32", 0.99), ("eight conversations", "tg16 b8", "engine tg16 b8", 0.95)]


def rate(omni, model, row, repetitions):
    text = subprocess.run([omni, "bench", "--model", model, "--only", row, "-r", str(repetitions), "--json"], check=True, capture_output=True,
                          text=True).stdout
    return next(r["median"] for r in json.loads(text) if r["test"] == row)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("omni")
    parser.add_argument("--model")
    parser.add_argument("--layers", default="12")
    parser.add_argument("--type", default="q4_k_m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if not model:
            model = os.path.join(folder, "thinker.gguf")
            subprocess.run([options.omni, "synth", model, "--type", options.type, "--layers", options.layers], check=True)
        holds = True
        for what, bare, engine, bar in BARS:
            ratios = []
            for i in range(options.rounds):
                order = (bare, engine) if i % 2 == 0 else (engine, bare)
                got = {row: rate(options.omni, model, row, options.repetitions) for row in order}
                ratios.append(got[engine] / got[bare])
                print(f"{what}, round {i + 1}: {got[bare]:.2f} t/s bare, {got[engine]:.2f} with the engine: {ratios[-1]:.3f}", flush=True)
            median = statistics.median(ratios)
            holds &= median >= bar
            print(f"{what}: {median:.3f} of the bare decoder's, {bar} wanted: {'holds' if median >= bar else 'DOES NOT HOLD'}", flush=True)
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
