#!/usr/bin/env python3
"""Four listeners while a prompt of some 4,000 tokens is read: how much sound each has left, over time.

    bench/listeners.py build/listeners [--svg FILE] [arguments of tests/tools/listeners.c]

Prints what the tool says and draws the file. Ends with 1 when a listener ran out of sound after the prompt came.
"""
import argparse
import csv
import os
import subprocess
import sys
import tempfile

WIDTH, HEIGHT, LEFT, TOP = 900, 150, 60, 30
COLOURS = ["#1b6ca8", "#b3541e", "#2a7f3f", "#7a3e9d"]


def read(path):
    streams, prompt = {}, None
    with open(path) as f:
        for who, a, b in csv.reader(f):
            if who == "prompt":
                prompt = float(a), float(b)
            else:
                streams.setdefault(int(who), []).append((float(a), float(b)))
    return streams, prompt


def plot(streams, prompt, title):
    end = max(points[-1][0] for points in streams.values())
    most = max(left for points in streams.values() for _, left in points)
    height = TOP + HEIGHT * len(streams) + 40
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/><text x="{LEFT}" y="18">{title}</text>']

    def x(t):
        return LEFT + t / end * (WIDTH - LEFT - 20)

    for row, (who, points) in enumerate(sorted(streams.items())):
        bottom = TOP + HEIGHT * (row + 1) - 20

        def y(left):
            return bottom - left / most * (HEIGHT - 40)

        if prompt:
            out.append(f'<rect x="{x(prompt[0]):.1f}" y="{bottom - HEIGHT + 40}" width="{x(prompt[1]) - x(prompt[0]):.1f}" '
                       f'height="{HEIGHT - 40}" fill="#eeeeee"/>')
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{bottom}" y2="{bottom}" stroke="#999999"/>')
        for mark in range(int(most) + 1):
            out.append(f'<text x="{LEFT - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark} s</text>')
        line = " ".join(f"{x(t):.1f},{y(left):.1f}" for t, left in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[row % len(COLOURS)]}" stroke-width="1.5"/>')
        out.append(f'<text x="{LEFT + 6}" y="{bottom - HEIGHT + 52}">listener {who}</text>')
    axis = TOP + HEIGHT * len(streams)
    for second in range(0, int(end) + 1, max(1, int(end) // 15)):
        out.append(f'<text x="{x(second):.1f}" y="{axis}" text-anchor="middle">{second} s</text>')
    out.append(f'<text x="{LEFT}" y="{axis + 22}">Seconds of sound that have come and were not played yet. '
               "Grey: a prompt of 4,000 tokens, from its arrival to its first text.</text></svg>")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool")
    parser.add_argument("--svg", default="listeners.svg")
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "listeners.csv")
        done = subprocess.run([options.tool, path, *rest])
        if done.returncode not in (0, 1):
            sys.exit(done.returncode)
        streams, prompt = read(path)
    with open(options.svg, "w") as f:
        f.write(plot(streams, prompt, "Sound ahead of four listeners"))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
