#!/usr/bin/env python3
"""Measures omni and llama.cpp's llama-bench alternately on the same model file, and keeps the result.

    bench/compare.py --omni build/omni --llama-bench .../llama-bench --model F.gguf --name q4_k_m-12 [--rounds 5] [--threads 2]

In every round both programs run once for every test; the order changes from round to round, so that neither has the quieter hours.
Printed and written to bench/results/DATE-NAME.{md,json,svg}: medians, ranges, their ratio, and what share of the memory's speed omni
reached, measured by omni bench itself just before and after each test.

Tests: ppN (a prompt of N tokens), tgN (N tokens decoded one by one), and "tg16 bN" (N sequences decoded together). llama-bench has no test of
the last kind: its prompt of N tokens stands in, which reads the same weights and computes one row of logits instead of N.
"""

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import time


def cpu_model():
    name, flags = "unknown", ""
    with open("/proc/cpuinfo") as f:
        for line in f:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = value
                break
    known = [x for x in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm") if x in flags.split()]
    return f"{name} ({', '.join(known)})" if known else name


def machine(threads):
    with open("/proc/meminfo") as f:
        memory = int(re.search(r"MemTotal:\s+(\d+)", f.read()).group(1)) / 2**20
    return {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1), "threads": threads}


def busy(seconds=1.0):
    """Share of all cores that other programs use, by the kernel's counters over so many seconds in which this one sleeps."""
    def sample():
        with open("/proc/stat") as f:
            v = [int(x) for x in f.readline().split()[1:9]]
        return sum(v), v[3] + v[4]  # all, idle and waiting for the disk
    total, idle = sample()
    time.sleep(seconds)
    after, after_idle = sample()
    return round(1 - (after_idle - idle) / max(1, after - total), 3)


def wait_until_quiet(args):
    """Others' share of the cores once it is low enough, or when waiting has taken too long."""
    end, share = time.monotonic() + args.wait, busy()
    while share > args.quiet and time.monotonic() < end:
        share = busy(2.0)
    return share


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{os.path.basename(command[0])} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout


def peer_test(test):
    """What llama-bench is asked for: ("p" or "n", tokens)."""
    batch = re.fullmatch(r"tg\d+ b(\d+)", test)
    if batch:
        return "p", int(batch.group(1))
    one = re.fullmatch(r"(pp|tg)(\d+)", test)
    if not one:
        sys.exit(f"unknown test {test!r}: pp512, tg32 and 'tg16 b8' are of the kinds that can be compared")
    return ("p" if one.group(1) == "pp" else "n"), int(one.group(2))


def run_ours(args, tests):
    generate = [int(t[2:]) for t in tests if re.fullmatch(r"tg\d+", t)]
    command = [args.omni, "bench", "--model", args.model, "--only", ",".join(tests), "-r", "1", "-t", str(args.threads), "--json"]
    if generate:
        command += ["-n", str(generate[0])]
    rows = {r["test"]: r for r in json.loads(run(command))}
    missing = [t for t in tests if t not in rows]
    if missing:
        sys.exit(f"omni bench has no test named {', '.join(missing)}")
    return {t: rows[t] for t in tests}, {"read": rows["memory read"]["median"], "fma": rows["float32 FMA"]["median"]}


def run_peer(args, tests):
    wanted = {t: peer_test(t) for t in tests}
    prompts = sorted({n for kind, n in wanted.values() if kind == "p"})
    tokens = sorted({n for kind, n in wanted.values() if kind == "n"})
    command = [args.llama_bench, "-m", args.model, "-t", str(args.threads), "-r", "1", "-o", "json"]
    command += ["-p", ",".join(map(str, prompts or [0])), "-n", ",".join(map(str, tokens or [0]))]
    rows = json.loads(run(command))
    rate = {("p", r["n_prompt"]) if r["n_prompt"] else ("n", r["n_gen"]): r["avg_ts"] for r in rows}
    return {t: rate[w] for t, w in wanted.items()}, rows[0].get("build_commit", "unknown")


def measure(args, tests):
    ours, peer, limits, shares, commit = {t: [] for t in tests}, {t: [] for t in tests}, [], [], "unknown"
    with open(args.model, "rb") as f:  # into the file cache, for both
        while f.read(1 << 24):
            pass
    for i in range(args.rounds):
        for who in ("ours", "peer") if i % 2 == 0 else ("peer", "ours"):
            shares.append(wait_until_quiet(args))
            if who == "ours":
                rows, limit = run_ours(args, tests)
                limits.append(limit)
                for t in tests:
                    ours[t].append(rows[t])
            else:
                rates, commit = run_peer(args, tests)
                for t in tests:
                    peer[t].append(rates[t])
        print(f"round {i + 1}/{args.rounds}: " + "  ".join(f"{t} {ours[t][-1]['median']:.2f} : {peer[t][-1]:.2f}" for t in tests), flush=True)
    return ours, peer, limits, shares, commit


def summary(tests, ours, peer):
    rows = []
    for t in tests:
        mine, theirs = [r["median"] for r in ours[t]], peer[t]
        rows.append({
            "test": t,
            "omni": statistics.median(mine), "omni_range": [min(mine), max(mine)],
            "llama_cpp": statistics.median(theirs), "llama_cpp_range": [min(theirs), max(theirs)],
            "ratio": statistics.median(mine) / statistics.median(theirs),
            "memory_share": statistics.median(r["memory_share"] for r in ours[t]),
            "compute_share": statistics.median(r["compute_share"] for r in ours[t]),
            "gigabytes_per_second": statistics.median(r["bytes_per_second"] for r in ours[t]) / 1e9,
            "peak_memory_gb": max(r["peak_memory"] for r in ours[t]) / 1e9,
        })
    return rows


def table(rows):
    out = ["| test | omni, tokens/s | llama.cpp, tokens/s | ratio | omni, GB/s | of the memory limit | of the FMA limit | omni, peak GB |",
           "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for r in rows:
        name = r["test"]
        out.append(f"| {name} | {r['omni']:.2f} ({r['omni_range'][0]:.2f} to {r['omni_range'][1]:.2f}) "
                   f"| {r['llama_cpp']:.2f} ({r['llama_cpp_range'][0]:.2f} to {r['llama_cpp_range'][1]:.2f}) | {r['ratio']:.2f} "
                   f"| {r['gigabytes_per_second']:.2f} | {100 * r['memory_share']:.0f}% | {100 * r['compute_share']:.0f}% | {r['peak_memory_gb']:.2f} |")
    return "\n".join(out)


def markdown(result, name):
    m, limits = result["machine"], result["limits"]
    text = [f"# {result['model']}: omni and llama.cpp, {result['date']}", "",
            f"{m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, {m['threads']} threads. omni {result['omni_version']}, "
            f"llama.cpp {result['llama_cpp_commit']}. {result['rounds']} rounds, alternating; medians (range).", "",
            table(result["rows"]), "",
            f"Limits measured in the same run (medians): memory {limits['read']:.1f} GB/s, float32 FMA {limits['fma']:.0f} GFLOP/s. "
            f"Before the runs other programs used {100 * min(result['busy']):.0f}% to {100 * max(result['busy']):.0f}% of the cores "
            f"(median {100 * statistics.median(result['busy']):.0f}%)."]
    if statistics.median(result["busy"]) > 0.25:
        text += ["", "**The machine was busy with other work.** Threads that wait for each other suffer more than the figures can tell; measure again "
                 "on a quiet one."]
    if any(" b" in r["test"] for r in result["rows"]):
        text += ["", "`tgN bM`: M sequences decoded together. llama-bench has no such test; its prompt of M tokens stands in, which computes one row of "
                 "logits where omni computes M."]
    if result.get("note"):
        text += ["", result["note"]]
    return "\n".join(text + ["", f"![tokens a second]({name}.svg)", ""])


def svg(result):
    rows, width, left, bar, gap = result["rows"], 760, 110, 22, 26
    height = 70 + len(rows) * (2 * bar + gap)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
           'font-family="sans-serif" font-size="13">',
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
           f'<text x="14" y="24" font-size="15" font-weight="bold" fill="#222">{result["model"]}, {result["machine"]["threads"]} threads, '
           f'{result["date"]}: tokens a second</text>']
    for i, (label, colour) in enumerate((("omni", "#2f6f9f"), ("llama.cpp", "#c9c9c9"))):
        out.append(f'<rect x="{left + i * 90}" y="36" width="12" height="12" fill="{colour}"/>'
                   f'<text x="{left + 17 + i * 90}" y="47" fill="#222">{label}</text>')
    room = width - left - 190
    for i, r in enumerate(rows):
        y = 62 + i * (2 * bar + gap)
        most = max(r["omni"], r["llama_cpp"])
        out.append(f'<text x="{left - 10}" y="{y + bar + 4}" text-anchor="end" fill="#222">{r["test"]}</text>')
        for k, (value, colour) in enumerate(((r["omni"], "#2f6f9f"), (r["llama_cpp"], "#c9c9c9"))):
            length = max(1.0, room * value / most)
            note = f'{value:.2f}' + (f'  ({r["ratio"]:.2f} x, {100 * r["memory_share"]:.0f}% of memory)' if k == 0 else "")
            out.append(f'<rect x="{left}" y="{y + k * bar}" width="{length:.1f}" height="{bar - 3}" fill="{colour}"/>'
                       f'<text x="{left + length + 6:.1f}" y="{y + k * bar + 14}" fill="#222">{note}</text>')
    return "\n".join(out + ["</svg>", ""])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--omni", default="build/omni")
    p.add_argument("--llama-bench", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--name", required=True, help="of the result: DATE-NAME.md")
    p.add_argument("--tests", default="pp512,tg32,tg16 b8")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--quiet", type=float, default=0.1, help="start a run only when others use less than this share of the cores (0.1)")
    p.add_argument("--wait", type=float, default=60, help="but wait for that no longer than so many seconds a run (60)")
    p.add_argument("--note", default="", help="a sentence kept with the result")
    p.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "results"))
    args = p.parse_args()
    tests = [t.strip() for t in args.tests.split(",") if t.strip()]
    if args.rounds < 1 or not tests:
        p.error("at least one round and one test")
    for t in tests:
        peer_test(t)

    ours, peer, limits, shares, commit = measure(args, tests)
    date = datetime.date.today().isoformat()
    result = {
        "date": date,
        "model": re.sub(r"\.gguf$", "", os.path.basename(args.model)),
        "machine": machine(args.threads),
        "omni_version": run([args.omni, "--version"]).split()[-1],
        "llama_cpp_commit": commit,
        "rounds": args.rounds,
        "busy": shares,
        "limits": {k: statistics.median(l[k] for l in limits) for k in ("read", "fma")},
        "rows": summary(tests, ours, peer),
        "runs": {"omni": ours, "llama_cpp": peer, "limits": limits},
        "note": args.note,
    }
    print(table(result["rows"]))
    os.makedirs(args.out, exist_ok=True)
    name = f"{date}-{args.name}"
    for suffix, text in (("md", markdown(result, name)), ("json", json.dumps(result, indent=1) + "\n"), ("svg", svg(result))):
        with open(os.path.join(args.out, f"{name}.{suffix}"), "w") as f:
            f.write(text)
    print(f"written: {os.path.join(args.out, name)}.md, .json, .svg")


if __name__ == "__main__":
    main()
