#!/usr/bin/env python3
"""Trains everything at toy size on tones on the CPU: losses must fall, a training cut in two must go on, the export must be what transformers computes.
Takes about two minutes on two cores. usage: check.py [FOLDER]"""
import os, re, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def run(*command):
    env = dict(os.environ, OMNI_SIZES="toy", OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    got = subprocess.run([sys.executable, *(os.path.join(HERE, c) if c.endswith(".py") else c for c in command)], env=env, capture_output=True, text=True)
    if got.returncode:
        sys.exit(f"{' '.join(command)}\n{got.stdout[-3000:]}\n{got.stderr[-3000:]}")
    last = (got.stdout.strip().splitlines() or ["done"])[-1]
    print(f"{command[0]}: {last}", flush=True)
    return got.stdout


def values(log, name):
    return [float(x) for x in re.findall(rf"\b{name} (-?[\d.]+)", log)]


def expect(what, good):
    print(("good: " if good else "BAD: ") + what, flush=True)
    if not good:
        sys.exit(1)


def main():
    with tempfile.TemporaryDirectory() as temporary:
        d = sys.argv[1] if len(sys.argv) > 1 else temporary
        run("toy_speech.py", d + "/speech", "40")
        codec = ["train_codec.py", d + "/speech", d + "/codec.pt", "--batch", "2", "--critic-rows", "1", "--frames", "5", "--window", "10", "--rate", "3e-3", "--every", "1"]
        first = values(run(*codec, "--steps", "24", "--seconds", "12"), "mel")
        log = run(*codec, "--steps", "24")
        at = [int(x) for x in re.findall(r"step (\d+)", log)]
        second = values(log, "mel")
        expect("the second piece goes on where the first stopped", not at or at[0] == len(first))
        mel = first + second
        mean = lambda x: sum(x) / len(x)
        expect(f"the codec's loss falls: {mean(mel[:4]):.3f} to {mean(mel[-4:]):.3f}", mean(mel[-4:]) < 0.9 * mean(mel[:4]))
        run("train_codec.py", d + "/speech", d + "/frozen.pt", "--frozen", "--begin", d + "/codec.small.pt", "--batch", "1", "--frames", "5", "--window", "10", "--steps", "3")
        run("encode.py", d + "/speech", d + "/codec.small.pt", d + "/data.pt")
        log = run("train_talker.py", d + "/data.pt", d + "/talker.pt", "--batch", "1", "--chosen", "64", "--steps", "60", "--every", "5", "--prefixes", "20", "--rate", "3e-3", "--test", d + "/data.pt")
        for name in ("code0", "phone"):
            x = values(log, name)
            expect(f"the talker's loss ({name}) falls: {x[0]:.3f} to {x[-1]:.3f}", x[-1] < 0.9 * x[0])
        run("sounds.py", "tones", d + "/tones", "--count", "20")
        thinker = ["train_thinker.py", d + "/talker.small.pt", d + "/thinker.pt", "--speech", d + "/speech", d + "/tones", "--scratch", d + "/scratch",
                   "--pictures", "12", "--videos", "4", "--workers", "1", "--sounds-in-batch", "2", "--pictures-in-batch", "2", "--videos-in-batch", "1", "--rows", "2", "--tokens", "320",
                   "--rate", "3e-3", "--warm", "4", "--every", "1"]
        first = values(run(*thinker, "--steps", "40", "--seconds", "12"), "ce")
        log = run(*thinker, "--steps", "40", "--test", d + "/speech", "--test-batches", "1")
        at = [int(x) for x in re.findall(r"step (\d+)", log)]
        expect("the thinker's second piece goes on where the first stopped", not at or at[0] == len(first))
        ce = first + values(log, "ce")
        expect(f"the thinker's loss falls: {ce[0]:.3f} to {mean(ce[-4:]):.3f}", mean(ce[-4:]) < 0.9 * ce[0])
        run("export.py", d + "/frozen.small.pt", d + "/talker.small.pt", d + "/thinker.small.pt", d + "/checkpoint")


if __name__ == "__main__":
    main()
