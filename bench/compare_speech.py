#!/usr/bin/env python3
"""Two programs' speech, alternating, so that a machine that is busy with other things slows both alike.

    compare_speech.py BEFORE AFTER [--type q4_k_m] [--rounds 5] [--rows speak] [--threads N] [--scratch DIR]

Each round runs `omni bench` of BEFORE, then of AFTER, with random weights of the released sizes in that type (the talker's file whole, one layer of the
thinker: 4 to 5 GB of disk and memory). Prints for each row every round's median, then the medians of those and how many times as fast AFTER is. A type
whose recipe changed is written by each program as it would convert it.
"""
import argparse, json, os, statistics, subprocess


def rows(omni, a):
    got = subprocess.run([omni, "bench", "--synthetic", a.type, "--layers", "1", "--parts", "talker,code2wav", "--only", a.rows, "-r", "3", "--max-seconds", "20",
                          "--json", *(["-t", a.threads] if a.threads else []), *(["--scratch", a.scratch] if a.scratch else [])], capture_output=True, text=True, check=True)
    out = json.loads(got.stdout)
    return {r["test"]: r for r in (out["rows"] if isinstance(out, dict) else out)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("before"); p.add_argument("after"); p.add_argument("--type", default="q4_k_m"); p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--rows", default="speak"); p.add_argument("--threads"); p.add_argument("--scratch")
    a = p.parse_args()
    seen = {}
    for i in range(a.rounds):
        for side, omni in enumerate((a.before, a.after)):
            for name, r in rows(omni, a).items():
                seen.setdefault(name, (r["unit"], [], []))[1 + side].append(r["median"])
        print(f"round {i + 1}, load {os.getloadavg()[0]:.1f}: " + ", ".join(f"{n} {b[-1]:.4g} -> {c[-1]:.4g} {u}" for n, (u, b, c) in seen.items() if c), flush=True)
    for name, (unit, b, c) in seen.items():
        before, after = statistics.median(b), statistics.median(c)
        times = before / after if unit in ("s", "x") else after / before
        print(f"{name}: {before:.4g} -> {after:.4g} {unit}, {times:.2f} times as fast ({min(b):.4g} to {max(b):.4g} -> {min(c):.4g} to {max(c):.4g})")


if __name__ == "__main__":
    main()
