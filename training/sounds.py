#!/usr/bin/env python3
"""What the thinker learns to hear: lists of words, questions, sentences, said by Kokoro, espeak-ng and the model's own voices; and tones.

    sounds.py texts MISAKI_DATA OUT_DIR [--small]              OUT_DIR/train.jsonl and test.jsonl for teacher.py speak (and for the next two)
    sounds.py espeak ITEMS.jsonl OUT_DIR [--every N --first I]      16 kHz, in processes of one core each
    sounds.py own OMNI MODEL_DIR ITEMS.jsonl OUT_DIR [...]          the same by omni speak
    sounds.py tones OUT_DIR [--count N]

Each folder holds audio-*.i16 and items-*.jsonl; items have text, kind (list, sentence, question, picture, tone), voice, at, samples, and rate (24000 when not
given); those of Kokoro also symbols, marks and durations, from which the alignment comes.
"""
import argparse, glob, json, math, os, random, re, subprocess, tempfile, wave
import numpy as np
import dialogue, texts
from dialogue import SPOKEN, VOCABULARY, ask, spoken_form
from pictures import all_questions
from sizes import VOICES

RATE, MOST = 16000, 7.6                         # samples a second; longest sound in seconds
ESPEAK = ["en-us", "en-us", "en-us", "en-gb", "en-gb-scotland", "en-us+m1", "en-us+m3", "en-us+m4", "en-us+m7", "en-us+f1", "en-us+f2", "en-us+f4", "en-gb+m2", "en-gb+f3"]
HEARD = ["Write down the words.", "Write down what you hear.", "What was said?", "Repeat what was said.", "Write it down.", "Transcribe the sound.", "What did I say?"]
WHO = ["Who is speaking?", "Which voice is this?", "Whose voice is this?", "Who said this?"]
TONE = ["Does the tone rise or fall?", "Is the tone rising or falling?", "What does the tone do?", "Does it rise or fall?"]
STRANGER = "I do not know this voice."


def word_list(rng, most=9):
    return " ".join(rng.choice(VOCABULARY) for _ in range(rng.choices(range(1, most + 1), [2, 2, 3, 4, 4, 4, 3, 2, 2][:most])[0]))


def every_word(rng, times):
    """All words of the vocabulary in random order, five at a time; -times over."""
    for _ in range(-times):
        words = rng.sample(VOCABULARY, len(VOCABULARY))
        yield from (" ".join(words[i:i + 5]) for i in range(0, len(words), 5))


def items(rng, lists, sentences, questions, repeats):
    """(kind, text, answer) of what is to be said. lists below 0: all words so many times."""
    make = texts.Templates(rng)
    out = [("list", w, None) for w in every_word(rng, lists)] if lists < 0 else [("list", word_list(rng), None) for _ in range(lists)]
    while sentences:
        s = make()
        if len(s) < 75 and not re.search(r"[$%:]|\d\d\d", s):
            out.append(("sentence", s, None))
            sentences -= 1
    for _ in range(questions):
        _, q, a = ask(rng, SPOKEN)
        if len(q) < 70 and not re.search(r"[+=]| - |\"", q):
            out.append(("question", q, a))
    out += [("picture", q, None) for q in all_questions() for _ in range(repeats)]
    if lists > 0:
        rng.shuffle(out)
    return out


def write_texts(misaki, out, small):
    from phonemes import Phonemes
    phonemes = Phonemes(misaki)
    os.makedirs(out, exist_ok=True)
    for name, seed, sizes in (("train", 1, (200, 20, 50, 0) if small else (20000, 3000, 5000, 9)), ("test", 2, (30, 0, 30, 0) if small else (-3, 60, 150, 0))):
        rng = random.Random(seed)
        got = items(rng, *sizes)
        phonemes.learn([t for _, t, _ in got])
        n = 0
        with open(f"{out}/{name}.jsonl", "w", encoding="utf-8") as f:
            for kind, text, answer in got:
                p = phonemes(text)
                if p and 2 <= len(p[0]) <= 200:
                    f.write(json.dumps(dict(kind=kind, text=text, answer=answer, voice=VOICES[n % 3], symbols=p[0], marks=p[1]), ensure_ascii=False) + "\n")
                    n += 1
        print(f"{name}: {n} items")


def trimmed(x, rate):
    """Sound without the silence around it, but for a little."""
    level = np.abs(x.astype(np.int32))
    loud = np.flatnonzero(level > max(80, level.max() // 80))
    if not len(loud):
        return x[:0]
    return x[max(0, loud[0] - rate // 10):loud[-1] + rate // 8]


def at_16k(x, rate):
    from scipy.signal import resample_poly
    g = math.gcd(rate, RATE)
    return np.clip(resample_poly(x.astype(np.float32), RATE // g, rate // g), -32767, 32767).astype(np.int16)


def read_wave(path):
    with wave.open(path) as w:
        return np.frombuffer(w.readframes(w.getnframes()), np.int16), w.getframerate()


class Writer:
    def __init__(self, out, part):
        os.makedirs(out, exist_ok=True)
        self.stem, self.at = f"{out}/%s-{part:03d}", 0
        self.sound, self.lines = open(self.stem % "audio" + ".i16", "wb"), open(self.stem % "items" + ".part", "w", encoding="utf-8")

    def add(self, x, **item):
        if 1600 <= len(x) <= MOST * RATE:
            self.sound.write(x.tobytes())
            self.lines.write(json.dumps(dict(item, at=self.at, samples=len(x), rate=RATE), ensure_ascii=False) + "\n")
            self.at += len(x)

    def close(self):
        self.sound.close()
        self.lines.close()
        os.rename(self.stem % "items" + ".part", self.stem % "items" + ".jsonl")


def chosen(path, first, every, limit):
    lines = [json.loads(s) for s in open(path, encoding="utf-8")]
    return [{k: i[k] for k in ("kind", "text", "answer", "voice")} for i in lines[first::every][:limit]]


def say(command, x_path):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    x, rate = read_wave(x_path)
    return at_16k(trimmed(x, rate), rate)


def speak_espeak(path, out, first, every, limit, seconds):
    import time
    rng, w, start = random.Random(first), Writer(out, first), time.time()
    program = os.environ.get("OMNI_ESPEAK", "espeak-ng").split()
    with tempfile.TemporaryDirectory() as d:
        for item in chosen(path, first, every, limit):
            voice = rng.choice(ESPEAK)
            speed, pitch = (175, 50) if rng.random() < 0.3 else (rng.randint(120, 190), rng.randint(30, 70))
            w.add(say([*program, "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", d + "/a.wav", item["text"]], d + "/a.wav"), **dict(item, voice="espeak"))
            if time.time() - start > seconds:
                break
    w.close()


def speak_own(omni, model, path, out, first, every, limit, seconds):
    import time
    w, start = Writer(out, first), time.time()
    with tempfile.TemporaryDirectory() as d:
        for n, item in enumerate(chosen(path, first, every, limit)):
            voice = VOICES[(n + first) % 3]
            try:
                w.add(say([omni, "speak", "-m", model, "-p", item["text"], "--voice", voice, "-t", "1", "--seed", str(n), "--max-frames", "120", "-o", d + "/a.wav"], d + "/a.wav"), **dict(item, voice=voice))
            except subprocess.CalledProcessError:
                pass
            if time.time() - start > seconds:
                break
    w.close()


def tone(rng):
    """(sound, what it does)"""
    kind = rng.choice(["rise", "fall", "rise", "fall", "steady", "silence"])
    n = int(RATE * rng.uniform(0.5, 2.5))
    t = np.arange(n) / n
    low = math.exp(rng.uniform(math.log(150), math.log(1200)))
    ratio = math.exp(rng.uniform(math.log(1.35), math.log(4)))
    f = low * (ratio ** t if kind == "rise" else ratio ** (1 - t) if kind == "fall" else np.ones(n))
    if rng.random() < 0.3 and kind in ("rise", "fall"):                 # in steps
        steps = rng.randint(3, 8)
        f = f[(np.floor(t * steps) / steps * (n - 1)).astype(int)]
    phase = 2 * np.pi * np.cumsum(f) / RATE
    x = sum(np.sin(k * phase) * a for k, a in ((1, 1.0), (2, rng.random() * 0.5), (3, rng.random() * 0.3)))
    edge = np.minimum(1, np.minimum(np.arange(n), np.arange(n)[::-1]) / (0.02 * RATE))
    x = x * edge * rng.uniform(2000, 9000)
    if kind == "silence":
        x = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.choice([0, 5, 30]), n)
    return np.clip(x, -32767, 32767).astype(np.int16), dict(rise="It rises.", fall="It falls.", steady="It stays the same.", silence="silence")[kind]


def write_tones(out, count):
    rng, w = random.Random(5), Writer(out, 0)
    for _ in range(count):
        x, answer = tone(rng)
        w.add(x, kind="silence" if answer == "silence" else "tone", text="", answer=answer, voice="")
    w.close()


def read(folders):
    """Items of several folders: (item, path of the sound). Those of Kokoro longer than MOST are left out."""
    out = []
    for folder in folders:
        for lines in sorted(glob.glob(folder + "/items-*.jsonl")):
            path = lines.replace("items-", "audio-").replace(".jsonl", ".i16")
            out += [(i, path) for i in map(json.loads, open(lines, encoding="utf-8")) if i["samples"] <= MOST * i.get("rate", 24000)]
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="what", required=True)
    a = sub.add_parser("texts")
    a.add_argument("misaki"); a.add_argument("out"); a.add_argument("--small", action="store_true")
    for name, more in (("espeak", ()), ("own", ("omni", "model"))):
        a = sub.add_parser(name)
        for m in more:
            a.add_argument(m)
        a.add_argument("items"); a.add_argument("out"); a.add_argument("--first", type=int, default=0); a.add_argument("--every", type=int, default=1)
        a.add_argument("--limit", type=int); a.add_argument("--seconds", type=float, default=1e9)
    a = sub.add_parser("tones")
    a.add_argument("out"); a.add_argument("--count", type=int, default=4000)
    a = p.parse_args()
    if a.what == "texts":
        write_texts(a.misaki, a.out, a.small)
    elif a.what == "espeak":
        speak_espeak(a.items, a.out, a.first, a.every, a.limit, a.seconds)
    elif a.what == "own":
        speak_own(a.omni, a.model, a.items, a.out, a.first, a.every, a.limit, a.seconds)
    else:
        write_tones(a.out, a.count)


if __name__ == "__main__":
    main()
