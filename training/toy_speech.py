#!/usr/bin/env python3
"""Writes what teacher.py would write, but of tones: each letter is a pitch, so that codec and talker have something to learn. usage: toy_speech.py OUT_DIR [SENTENCES]"""
import json, os, sys
import numpy as np
from sizes import RATE, VOICES

UNIT = 600


def main():
    out, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60
    rng = np.random.default_rng(0)
    words = ["one", "two", "three", "red", "green", "blue", "cat", "dog", "sun"]
    os.makedirs(out, exist_ok=True)
    at = 0
    with open(out + "/audio-000.i16", "wb") as sound, open(out + "/items-000.jsonl", "w") as lines:
        for i in range(count):
            text = " ".join(rng.choice(words) for _ in range(rng.integers(2, 5)))
            marks = [[e, e] for e in [k for k, c in enumerate(text + " ") if c == " "]]
            durations = [4] + [3] * len(text) + [6]
            x, phase = [], 0.0
            for c, d in zip([" "] + list(text) + [" "], durations):
                f = 0 if c == " " else 80 * (1 + i % 3) * 2 ** ((ord(c) - ord("a")) / 12)
                t = phase + 2 * np.pi * f * np.arange(1, d * UNIT + 1) / RATE
                phase = t[-1]
                x.append((f > 0) * sum(np.sin(k * t) / k for k in (1, 2, 3)) * 6000)
            x = np.concatenate(x).astype(np.int16)
            sound.write(x.tobytes())
            lines.write(json.dumps(dict(kind="list", text=text, voice=VOICES[i % 3], symbols=text, marks=marks, at=at, samples=len(x), durations=durations)) + "\n")
            at += len(x)


if __name__ == "__main__":
    main()
