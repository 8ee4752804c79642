#!/usr/bin/env python3
"""Asks omni what the thinker has not seen in training, and scores the answers.

    ask.py make OUT_DIR [--omni OMNI --model DIR] [--speech FOLDER...]  pictures, videos, tones, sounds and OUT_DIR/questions.jsonl
    ask.py run OMNI MODEL OUT_DIR [--limit N]                           greedy answers; right ones by skill, word error rate of dictation by voice

Dictation: every word of the vocabulary once in each voice, in random order, said by omni speak and espeak-ng, and, with --speech, by the teacher (a folder that
teacher.py wrote of test.jsonl).
"""
import argparse, json, os, random, subprocess, wave
import numpy as np
import dialogue as D
import pictures as P
import sounds as S
from concurrent.futures import ThreadPoolExecutor
from evaluate import distance
from sizes import VOICES


def save(path, x, rate=16000):
    with wave.open(path, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(rate)
        w.writeframes(x.tobytes())


def make(out, omni, model, speech):
    os.makedirs(out, exist_ok=True)
    r, lines = random.Random(99), []
    add = lambda category, question, answer, **media: lines.append(dict(category=category, question=question, answer=answer, **media))
    for i in range(200):
        p = P.picture(r)
        p.whole.convert("RGB").save(f"{out}/picture-{i}.png")
        asked = P.questions(p, r)
        for kind, q, a in [asked[0]] + r.sample(asked[1:], min(2, len(asked) - 1)):
            add("picture: " + kind, q, a, image=f"picture-{i}.png")
    for i in range(60):
        p = P.video(r)
        np.save(f"{out}/video-{i}.npy", p.frames)
        _, q, a = P.video_questions(p, r)[0]
        add("video", q, a, video=f"video-{i}.npy")
    for i in range(60):
        x, a = S.tone(r)
        if a != "silence":
            save(f"{out}/tone-{i}.wav", x)
            add("tone", r.choice(S.TONE), a, audio=f"tone-{i}.wav")
    seen = set()
    while len(seen) < 200:                      # questions kept from training
        skill, q, a = D.ask(r)
        if D.held_out(q) and q not in seen:
            seen.add(q)
            add("text: " + skill, q, a)
    for i, words in enumerate(w for n in range(3) for w in S.every_word(random.Random(1000 + n), -1)):
        voice = VOICES[i * 3 // 300]
        if omni:
            path = f"own-{i}.wav"
            subprocess.run([omni, "speak", "-m", model, "-p", words, "--voice", voice, "--seed", "1", "-o", f"{out}/{path}"], check=True, stderr=subprocess.DEVNULL)
            add("dictation: " + voice, S.HEARD[0], words, audio=path)
            if i % 10 == 0:
                add("voice", S.WHO[0], voice.capitalize() + ".", audio=path)
        if i < 100:
            path = f"espeak-{i}.wav"
            subprocess.run(["espeak-ng", "-v", S.ESPEAK[i % len(S.ESPEAK)], "-s", "150", "-w", f"{out}/{path}", words], check=True)
            add("dictation: espeak", S.HEARD[0], words, audio=path)
            if i % 10 == 0:
                add("voice", S.WHO[0], S.STRANGER, audio=path)
    questions = 0
    for item, path in S.read(speech):
        x = np.memmap(path, np.int16, "r")[item["at"]:item["at"] + item["samples"]]
        name = f"teacher-{len(lines)}.wav"
        if item["kind"] == "question" or item["kind"] in ("list", "sentence"):
            save(f"{out}/{name}", np.array(x), item.get("rate", 24000))
            if item["kind"] == "question":
                add("spoken question", "", item["answer"], audio=name)
            else:
                add(f"dictation: teacher's {item['voice']}" if item["kind"] == "list" else "dictation: teacher's sentences", S.HEARD[0], D.spoken_form(item["text"]), audio=name)
    with open(f"{out}/questions.jsonl", "w") as f:
        f.writelines(json.dumps(x) + "\n" for x in lines)
    print(f"{out}: {len(lines)} questions")


def run(omni, model, out, limit):
    lines = [json.loads(s) for s in open(f"{out}/questions.jsonl")]
    random.Random(0).shuffle(lines)

    def ask(x):
        flags = [f for kind in ("image", "video", "audio") if kind in x for f in ("--" + kind, f"{out}/{x[kind]}")]
        got = subprocess.run([omni, "run", "-m", model, *flags, "-p", x["question"], "--greedy", "--max-tokens", "120", "-t", "1", "--json"], capture_output=True, text=True)
        if got.returncode:
            raise SystemExit(got.stderr)
        return json.loads(got.stdout)["text"].strip()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, lines[:limit]))
    right, errors = {}, {}
    with open(f"{out}/answers.txt", "w") as f:
        for x, a in sorted(zip(lines, answers), key=lambda p: p[0]["category"]):
            n = right.setdefault(x["category"], [0, 0])
            good = a == x["answer"]
            n[0] += good
            n[1] += 1
            if x["category"].startswith("dictation"):
                e = errors.setdefault(x["category"], [0, 0])
                e[0] += distance(x["answer"].split(), a.lower().replace(".", "").split())
                e[1] += len(x["answer"].split())
            f.write(f"{'good' if good else 'BAD '} {x['category']} | {x.get('image', x.get('video', x.get('audio', '')))} | {x['question']} | {x['answer']} | {a}\n")
    for k, (a, n) in sorted(right.items()):
        print(f"{k}: {a} of {n} right" + (f", word error rate {errors[k][0] / errors[k][1]:.3f}" if k in errors else ""))
    for group in ("picture", "text"):
        a, n = (sum(c[i] for k, c in right.items() if k.startswith(group + ":")) for i in (0, 1))
        print(f"{group}: {a} of {n}, {100 * a / max(1, n):.1f} %")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="what", required=True)
    a = sub.add_parser("make")
    a.add_argument("out"); a.add_argument("--omni"); a.add_argument("--model"); a.add_argument("--speech", nargs="*", default=[])
    a = sub.add_parser("run")
    a.add_argument("omni"); a.add_argument("model"); a.add_argument("out"); a.add_argument("--limit", type=int)
    a = p.parse_args()
    if a.what == "make":
        make(a.out, a.omni, a.model, a.speech)
    else:
        run(a.omni, a.model, a.out, a.limit)


if __name__ == "__main__":
    main()
