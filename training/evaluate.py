#!/usr/bin/env python3
"""How well the 60 held-out sentences are understood, and how close the codec comes to the teacher.

    evaluate.py words WAV_DIR            00.wav to 59.wav, any rate: word error rate, sentences picked out of the 60, last words
    evaluate.py speak OMNI MODEL_DIR TYPE OUT_DIR [flags of omni speak]      lets omni say them, voices in turn
    evaluate.py teacher TEST_DIR OUT_DIR                    what teacher.py said of them, as WAV files
    evaluate.py codec TEST_DIR CODEC.small.pt OUT_DIR       the same through the codec, with PESQ and STOI against the teacher
    evaluate.py turns OMNI MODEL_DIR ASK_DIR [COUNT]        answers to questions of ask.py aloud, after turns with text, picture, sound; beside them the same
                                                            texts said by omni speak: word error rates

Words are recognised by pocketsphinx with its own general English model. Needs numpy, scipy, pocketsphinx, pesq, pystoi.
"""
import json, os, re, subprocess, sys, wave
import numpy as np
from scipy.signal import resample_poly

HERE = os.path.dirname(os.path.abspath(__file__))
TEST = open(os.path.join(HERE, "test-sentences.txt"), encoding="utf-8").read().strip().split("\n")
VOICES = ["chelsie", "ethan", "aiden"]


def words(s):
    s = s.lower().replace("12", "twelve").replace("30", "thirty").replace("42", "forty two")
    return re.sub(r"[^a-z' ]", " ", s).split()


def distance(a, b):
    """Edit distance of two lists."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [i] + [0] * len(b)
        for j, y in enumerate(b, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
    return row[-1]


def load(path):
    """Samples at 16 kHz."""
    with wave.open(path) as w:
        rate, x = w.getframerate(), np.frombuffer(w.readframes(w.getnframes()), np.int16).astype(np.float64)
    return resample_poly(x, 16000, rate) if rate != 16000 else x


def save(path, x, rate=24000):
    with wave.open(path, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(rate)
        w.writeframes(np.clip(x, -32768, 32767).astype(np.int16).tobytes())


def recognise(decoder, x):
    x = x / max(1, np.abs(x).max()) * 16000
    x = np.concatenate((np.zeros(3200), x, np.zeros(3200))) + np.random.default_rng(0).normal(0, 4, len(x) + 6400)
    decoder.start_utt()
    decoder.process_raw(x.astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    return decoder.hyp().hypstr if decoder.hyp() else ""


def grammar():
    """A JSGF grammar of the 60 sentences, and the dictionary with the few words that the recogniser's lacks."""
    return "#JSGF V1.0; grammar g; public <s> = " + " | ".join(" ".join(words(t)) for t in TEST) + " ;"


def evaluate_words(folder):
    from pocketsphinx import Decoder
    free = Decoder(samprate=16000, loglevel="FATAL")
    choice = Decoder(samprate=16000, loglevel="FATAL", lm=None)
    for word, phones in (("omni", "AA M N IY"),):
        if choice.lookup_word(word) is None:
            choice.add_word(word, phones, True)
    choice.add_jsgf_string("s", grammar())
    choice.activate_search("s")
    errors, counts, picked, last, lines = [], [], 0, 0, []
    for i, text in enumerate(TEST):
        x = load(f"{folder}/{i:02d}.wav")
        want, got = words(text), words(recognise(free, x))
        errors.append(distance(want, got))
        counts.append(len(want))
        right = recognise(choice, x).split() == want
        picked += right
        ending = want[-1] in got[-2:]
        last += ending
        lines.append(f"{i:02d} {errors[-1]}/{counts[-1]} {'picked' if right else 'NOT picked'} {'' if ending else 'last word missing '}| {text} | {' '.join(got)}")
    with open(folder + "/result.txt", "w") as f:
        f.write("\n".join(lines) + "\n")
    rate = lambda k: sum(errors[k]) / sum(counts[k])
    print(f"{folder}: word error rate {rate(slice(None)):.3f} (" + ", ".join(f"{v} {rate(slice(k, None, 3)):.3f}" for k, v in enumerate(VOICES)) +
          f"; the first 36 {rate(slice(0, 36)):.3f}), picked {picked} of 60, last words recognised {last} of 60")


def speak(omni, models, kind, out, flags):
    os.makedirs(out, exist_ok=True)
    log = []
    for i, text in enumerate(TEST):
        got = subprocess.run([omni, "speak", "--model", f"{models}/qwen3-omni-{kind}.gguf", "--talker", f"{models}/talker-qwen3-omni-{kind}.gguf", "-p", text,
                              "-o", f"{out}/{i:02d}.wav", "--voice", VOICES[i % 3], "--max-frames", "200", "--json", *flags], capture_output=True, text=True, check=True)
        log.append(json.loads(got.stdout))
    sound = sum(r["samples"] for r in log) / 24000
    took = sum(r["seconds"]["answer"] for r in log)
    print(f"{sound:.1f} s of sound in {took:.1f} s, {took / sound:.3f} s a second; first sound after {1000 * np.mean([r['seconds']['first_audio'] for r in log]):.0f} ms; cut {sum(r['speech_cut'] for r in log)}")


def teacher_sound(folder):
    """Int16 sound of each test sentence, as long as the codec keeps it."""
    from encode import plan
    from sizes import FRAME
    if folder.endswith(".npz"):
        z = np.load(folder)
        raw = [z[f"x{i:02d}"] for i in range(len(TEST))]
    else:
        a = np.fromfile(folder + "/audio-000.i16", np.int16)
        items = {m["text"]: m for m in map(json.loads, open(folder + "/items-000.jsonl", encoding="utf-8"))}
        raw = [a[items[t]["at"]:items[t]["at"] + items[t]["samples"]] for t in TEST]
    out = []
    for x in raw:
        begin, frames = plan(x)
        y = np.zeros(frames * FRAME, np.int16)
        piece = x[max(0, begin):begin + frames * FRAME]
        y[max(0, -begin):max(0, -begin) + len(piece)] = piece
        out.append(y)
    return out


def evaluate_codec(folder, path, out):
    import torch
    from codec import load_codec
    from sizes import sizes
    from pesq import pesq
    from pystoi import stoi
    codec = load_codec(path, sizes(), "cpu")
    os.makedirs(out, exist_ok=True)
    scores = []
    with torch.no_grad():
        for i, x in enumerate(teacher_sound(folder)):
            codes = codec.encode(torch.from_numpy(x)[None].float() / 32768)
            y = codec.decoder.w(codes.transpose(1, 2)).reshape(-1).numpy() * 32767
            save(f"{out}/{i:02d}.wav", y)
            n = min(len(x), len(y)) // 3 * 3
            a, b = (resample_poly(s[:n].astype(np.float64), 2, 3) for s in (x, y))
            scores.append((pesq(16000, a, b, "wb"), stoi(a, b, 16000)))
    s = np.array(scores)
    print(f"codec against teacher: PESQ {s[:, 0].mean():.3f}, STOI {s[:, 1].mean():.3f} (" + ", ".join(f"{v} {s[k::3, 0].mean():.2f} {s[k::3, 1].mean():.3f}" for k, v in enumerate(VOICES)) + ")")


def turns(omni, model, folder, count):
    """Whether speech is as clear after a turn as without one, whatever the turn held."""
    import random, tempfile
    from pocketsphinx import Decoder
    decoder = Decoder(samprate=16000, loglevel="FATAL")
    asked = [json.loads(s) for s in open(folder + "/questions.jsonl")]
    random.Random(1).shuffle(asked)
    with tempfile.TemporaryDirectory() as d:
        for kind in ("text", "image", "video", "audio"):
            errors, total, n = [0, 0], 0, 0
            for x in asked:
                if n == count or (kind in x) != (kind != "text") or (kind == "text" and not x["category"].startswith("text")) or len(words(x["answer"])) < 3 or re.search("[0-9]|[A-Z],", x["answer"]):
                    continue
                voice = ["--voice", VOICES[n % 3], "--seed", "1"]
                got = subprocess.run([omni, "run", "-m", model, *([] if kind == "text" else ["--" + kind, f"{folder}/{x[kind]}"]), "-p", x["question"], "--greedy", *voice, "-o", d + "/a.wav", "--json"],
                                     capture_output=True, text=True, check=True)
                text = json.loads(got.stdout)["text"]
                subprocess.run([omni, "speak", "-m", model, "-p", text, "--greedy", *voice, "-o", d + "/b.wav"], capture_output=True, check=True)
                for i, name in enumerate(("a", "b")):
                    errors[i] += distance(words(text), words(recognise(decoder, load(f"{d}/{name}.wav"))))
                total += len(words(text))
                n += 1
            print(f"after {kind}: {n} answers, {total} words, word error rate {errors[0] / total:.3f}; omni speak: {errors[1] / total:.3f}", flush=True)


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "words":
        evaluate_words(sys.argv[2])
    elif len(sys.argv) >= 6 and sys.argv[1] == "speak":
        speak(*sys.argv[2:6], sys.argv[6:])
    elif len(sys.argv) == 4 and sys.argv[1] == "teacher":
        os.makedirs(sys.argv[3], exist_ok=True)
        for i, x in enumerate(teacher_sound(sys.argv[2])):
            save(f"{sys.argv[3]}/{i:02d}.wav", x)
    elif len(sys.argv) in (5, 6) and sys.argv[1] == "turns":
        turns(*sys.argv[2:5], int(sys.argv[5]) if len(sys.argv) == 6 else 40)
    elif len(sys.argv) == 5 and sys.argv[1] == "codec":
        evaluate_codec(*sys.argv[2:5])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
