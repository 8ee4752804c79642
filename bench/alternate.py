#!/usr/bin/env python3
"""Two builds against each other, in turns: bench/alternate.py BEFORE AFTER ROW [--rounds 5] [--bar 1.02] [flags of omni bench]

    bench/alternate.py old/omni build/omni "speak: real-time factor" --synthetic q8_0 --layers 2

For a row of omni bench: medians of both, and the median of each round's AFTER / BEFORE; who goes first alternates. Ends with 1
when that is more than the bar for a factor or a time (smaller is better), or, with --rate, less than 1 / bar.
"""
import argparse
import json
import statistics
import subprocess
import sys


def value(omni, row, flags):
    done = subprocess.run([omni, "bench", "--only", row.split(":")[0], "--json", *flags], check=True, capture_output=True, text=True)
    return next(r["median"] for r in json.loads(done.stdout) if r["test"] == row)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bar", type=float, default=1.02)
    parser.add_argument("--rate", action="store_true", help="larger is better")
    options, flags = parser.parse_known_args()
    got = {options.before: [], options.after: []}
    for i in range(options.rounds):
        for omni in (list(got) if i % 2 == 0 else list(got)[::-1]):
            got[omni].append(value(omni, options.row, flags))
        print(f"round {i + 1}: {got[options.before][-1]:.4g} before, {got[options.after][-1]:.4g} after", flush=True)
    ratio = statistics.median(b / a for a, b in zip(got[options.before], got[options.after]))
    holds = ratio >= 1 / options.bar if options.rate else ratio <= options.bar
    print(f"{options.row}: {statistics.median(got[options.before]):.4g} before, {statistics.median(got[options.after]):.4g} after, "
          f"{ratio:.3f} of it: {'holds' if holds else 'DOES NOT HOLD'}")
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
