#!/usr/bin/env python3
"""Measures the voice activity detector, and webrtcvad beside it where that is installed. Prints the tables of docs/voice_activity.md.

    bench/voice_activity.py --tool build/voice_events --question models/media/question.ogg

Needs numpy, ffmpeg, espeak-ng and flite. 36 clips (35 sentences of seven synthetic voices and question.ogg), all equally loud, stand two seconds
apart in a background. A clip is found when a span of speech meets it and no other clip, missed when none does, and run together when its span meets
other clips as well, since nobody would be answered then. A span that meets no clip is a false start.
"""

import argparse, os, subprocess, tempfile

import numpy as np

try:
    import webrtcvad
except ImportError:
    webrtcvad = None

RATE = 16000
LOUD = 0.1  # root mean square of a clip
SENTENCES = ["The train to the coast leaves at nine.", "Could you tell me what is in this picture?", "She sells six fresh fish to his sister.", "Yes.",
             "Please stop now and listen to what I say."]
VOICES = [("espeak-ng", v) for v in ("en-gb", "en-us+f3", "de")] + [("flite", v) for v in ("slt", "rms", "awb", "kal")]


def read(path):
    return np.frombuffer(subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "f32le", "-ac", "1", "-ar", str(RATE), "-"], check=True,
                                        capture_output=True).stdout, "f4").astype(float)


def trimmed(x):
    heard = np.nonzero(np.abs(x) > 0.01 * np.abs(x).max())[0]
    x = x[heard[0]:heard[-1] + 1]
    return x * LOUD / np.sqrt(np.mean(x**2))


def clips(question):
    found = [trimmed(read(question)[:int(1.514 * RATE)])]  # silence from there on, as ffmpeg's silencedetect has it at -40 dB
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "clip.wav")
        for program, voice in VOICES:
            for text in SENTENCES:
                command = ["flite", "-voice", voice, "-t", text, "-o", path] if program == "flite" else ["espeak-ng", "-v", voice, "-w", path, text]
                subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
                found.append(trimmed(read(path)))
    return found


def background(kind, n, loud, rng):
    t = np.arange(n) / RATE
    quiet = rng.normal(0, 1e-4, n)
    if kind == "quiet":
        return quiet
    if kind == "clicks":  # 2.5 ms, three a second
        return np.where(np.arange(n) % (RATE // 3) < RATE // 400, rng.normal(0, 0.5, n), 0) + quiet
    if kind == "white":
        x = rng.normal(0, 1, n)
    elif kind == "pink":
        f = np.fft.rfft(rng.normal(0, 1, n))
        x = np.fft.irfft(f / np.sqrt(np.maximum(np.arange(len(f)), 1)), n)
    elif kind == "hum":
        x = sum(np.sin(2 * np.pi * 50 * h * t + h) / h for h in range(1, 9))
    else:  # music: a plucked note every quarter of a second
        x = np.zeros(n)
        for i in range(0, n, RATE // 4):
            m = min(RATE // 2, n - i)
            f = 220 * 2**(rng.integers(24) / 12)
            x[i:i + m] += np.exp(-4 * t[:m]) * sum(np.sin(2 * np.pi * f * h * t[:m]) / h for h in range(1, 5))
    return x * loud / np.sqrt(np.mean(x**2))


def ours(tool, x):
    spans = []
    out = subprocess.run([tool, str(RATE), "0.5", "500"], input=x.astype("f4").tobytes(), check=True, capture_output=True).stdout
    for line in out.decode().splitlines():
        kind, position, _ = line.split()
        if kind == "start":
            spans.append([int(position), len(x)])
        else:
            spans[-1][1] = int(position)
    return spans


def webrtc(x, mode):
    """Frames of 20 ms; 5 of 8 begin speech, 500 ms without one end it."""
    vad, pcm = webrtcvad.Vad(mode), (np.clip(x, -1, 1) * 32767).astype("<i2").tobytes()
    spans, recent, speaking, last = [], [], False, 0
    for i in range(len(x) // 320):
        active = vad.is_speech(pcm[i * 640:i * 640 + 640], RATE)
        recent = (recent + [active])[-8:]
        if active:
            last = i
        if not speaking and sum(recent) >= 5:
            speaking = True
            spans.append([(i + 1 - len(recent) + recent.index(True)) * 320, len(x)])
        elif speaking and (i - last) * 20 >= 500:
            speaking, recent = False, []
            spans[-1][1] = (last + 1) * 320
    return spans


def score(spans, truth):
    missed = together = 0
    begins, ends, met = [], [], set()
    for a, b in truth:
        mine = [i for i, (p, q) in enumerate(spans) if p < b and q > a]
        met |= set(mine)
        if not mine:
            missed += 1
        elif any(p < d and q > c for i in mine for p, q in [spans[i]] for c, d in truth if (c, d) != (a, b)):
            together += 1
        else:
            begins.append((spans[mine[0]][0] - a) * 1000 / RATE)
            ends.append((spans[mine[-1]][1] - b) * 1000 / RATE)
    spread = lambda v: f"{np.median(v):+.0f} / {np.percentile(np.abs(v), 90):.0f}" if v else "-"
    return f"{missed} | {together} | {len(spans) - len(met)} | {spread(begins)} | {spread(ends)}"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tool", required=True)
    p.add_argument("--question", required=True)
    a = p.parse_args()
    rng = np.random.default_rng(1)
    parts, truth, n = [np.zeros(4 * RATE)], [], 4 * RATE
    for c in clips(a.question):
        truth.append((n, n + len(c)))
        parts += [c, np.zeros(2 * RATE)]
        n += len(c) + 2 * RATE
    speech = np.concatenate(parts)
    detectors = [("omni", lambda x: ours(a.tool, x))] + \
        ([(f"webrtcvad, mode {m}", lambda x, m=m: webrtc(x, m)) for m in (2, 3)] if webrtcvad else [])
    print(f"{len(truth)} clips\n\n| background | dB | detector | missed | run together | false starts | begin, ms | end, ms |\n|---|---|---|---|---|---|---|---|")
    for kind, ratio in [("quiet", 60)] + [(k, r) for k in ("white", "pink", "hum", "music") for r in (20, 10, 5)] + [("clicks", None)]:
        x = speech + background(kind, n, LOUD * 10**(-(ratio or 0) / 20), rng)
        for name, detect in detectors:
            print(f"| {kind} | {'-' if ratio is None else ratio} | {name} | {score(detect(x), truth)} |", flush=True)
    print("\n| 60 s without speech | " + " | ".join(name for name, _ in detectors) + " |\n|---|" + "---|" * len(detectors))
    for kind in ("white", "pink", "hum", "music", "clicks"):
        x = background(kind, 60 * RATE, 0.03, rng)
        print(f"| {kind} | " + " | ".join(str(len(detect(x))) for _, detect in detectors) + " |", flush=True)
    x = speech + background("pink", n, LOUD / 10, rng)
    begun = os.times().children_user
    ours(a.tool, np.tile(x, 10))
    print(f"\nCost: {(os.times().children_user - begun) / (10 * n / RATE) * 1e6:.0f} microseconds of one core a second of sound")


main()
