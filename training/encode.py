#!/usr/bin/env python3
"""Codes, tokens, phones and alignment of everything the teacher said, as the arrays that train_talker.py wants.

    encode.py SPEECH_DIR CODEC.small.pt OUT.pt [--hours H]

OUT has for U sentences with F frames in all and N tokens in all: frames [U+1] and tokens [U+1] (where each begins), voice [U], codes [F, groups]
uint8, token [N] int16, spoken [F] int16 (the token that is being said), phones [F, 4] uint8 (one each 20 ms).
"""
import argparse, glob, json, time
import numpy as np
import torch
from codec import load_codec
from sizes import FRAME, RATE, VOICES, sizes, tokenizer
from teacher import SYMBOLS, UNIT

LEAD, TAIL = 0.20, 0.20                         # seconds kept before the first and after the last sound that can be heard
PHONES = {c: i for i, c in enumerate([" "] + [c for c in SYMBOLS if c not in ' ;:,.!?—…"()“”ˈˌː'])}
MOST_FRAMES = 220


def audible(x):
    """First and last sample of int16 sound above a hundredth of its peak, by steps of 5 ms."""
    n = len(x) // 120
    level = np.abs(x[:n * 120].astype(np.int32)).reshape(n, 120).max(1)
    loud = np.flatnonzero(level > max(60, level.max() // 100))
    return (loud[0] * 120, (loud[-1] + 1) * 120) if len(loud) else (0, len(x))


def plan(x):
    """Where the frames of a sentence begin (in samples, may be negative) and how many there are."""
    first, last = audible(x)
    begin = first - int(LEAD * RATE)
    return begin, -(-(last + int(TAIL * RATE) - begin) // FRAME)


def describe(item, begin, frames, encode):
    """(token ids, token being said in each frame, phones of each frame) of one sentence, or None when it does not fit."""
    got = encode(item["text"], add_special_tokens=False)
    n = len(got.ids)
    if not 1 <= n <= frames - 2 or frames > MOST_FRAMES:
        return None
    ends = np.cumsum(item["durations"]) * UNIT - begin              # of the symbols, in samples of the kept sound; the first is the silence before
    symbols = item["symbols"]
    at = np.arange(frames * 4) * (FRAME // 4) + FRAME // 8
    which = np.searchsorted(ends, at, side="right") - 1
    kinds = np.array([PHONES.get(c, 0) for c in symbols] + [0])
    for i, c in enumerate(symbols):             # stress marks last, too: they belong to the sound that follows
        if c in "ˈˌː":
            kinds[i] = kinds[i + 1] if i + 1 < len(symbols) else 0
    phones = np.where((which >= 0) & (which < len(symbols)), kinds[np.clip(which, 0, len(symbols))], 0).reshape(frames, 4)
    marks = np.array(item["marks"]).reshape(-1, 2)
    chars = np.concatenate(([0], marks[:, 0]))
    times = np.concatenate(([ends[0]], ends[marks[:, 1]]))          # ends[k] is the end of symbol k - 1
    token_ends = np.maximum.accumulate(np.interp([b for _, b in got.offsets], chars, times))
    spoken = np.clip(np.searchsorted(token_ends, np.arange(frames) * FRAME + FRAME // 2, side="right"), 0, n - 1)
    return np.array(got.ids, np.int16), spoken.astype(np.int16), phones.astype(np.uint8)


def encode_part(codec, lines, device, encode):
    items = [json.loads(line) for line in open(lines, encoding="utf-8")]
    sound = np.memmap(lines.replace("items-", "audio-").replace(".jsonl", ".i16"), np.int16, "r")
    kept = []
    for item in items:
        x = sound[item["at"]:item["at"] + item["samples"]]
        begin, frames = plan(x)
        d = describe(item, begin, frames, encode)
        if d is not None:
            kept.append((frames, item, begin, d))
    kept.sort(key=lambda k: k[0])
    out, at = [], 0
    while at < len(kept):
        longest = kept[min(len(kept), at + 64) - 1][0]
        batch = kept[at:at + max(1, (16000 if device == "cuda" else 400) // longest)]
        longest = batch[-1][0]
        x = np.zeros((len(batch), longest * FRAME), np.int16)
        for row, (frames, item, begin, _) in zip(x, batch):
            piece = sound[item["at"] + max(0, begin):item["at"] + min(item["samples"], begin + frames * FRAME)]
            row[max(0, -begin):max(0, -begin) + len(piece)] = piece
        codes = codec.encode(torch.from_numpy(x).to(device).float() / 32768).to(torch.uint8).cpu().numpy()
        out += [(codes[i, :frames], VOICES.index(item["voice"]), *d) for i, (frames, item, _, d) in enumerate(batch)]
        at += len(batch)
    return out


def pack(rows):
    offsets = lambda a: torch.from_numpy(np.concatenate(([0], np.cumsum([len(x) for x in a]))))
    codes, voice, token, spoken, phones = zip(*rows)
    cat = lambda a: torch.from_numpy(np.concatenate(a))
    return dict(frames=offsets(codes), tokens=offsets(token), voice=torch.tensor(voice, dtype=torch.uint8), codes=cat(codes), token=cat(token), spoken=cat(spoken), phones=cat(phones))


@torch.no_grad()
def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("speech"); p.add_argument("codec"); p.add_argument("out"); p.add_argument("--hours", type=float, default=1e9)
    p.add_argument("--first", type=int, default=0); p.add_argument("--every", type=int, default=1)
    a = p.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    codec, start, rows, frames = load_codec(a.codec, sizes(), device), time.time(), [], 0
    tok, _, _ = tokenizer()
    for lines in sorted(glob.glob(a.speech + "/items-*.jsonl"))[a.first::a.every]:
        part = encode_part(codec, lines, device, tok.encode)
        rows += part
        frames += sum(len(r[0]) for r in part)
        if frames / 12.5 / 3600 >= a.hours:
            break
    torch.save(pack(rows), a.out)
    print(f"{time.time() - start:.0f} s: {len(rows)} sentences, {frames / 12.5 / 3600:.2f} h", flush=True)


if __name__ == "__main__":
    main()
