#!/usr/bin/env python3
"""Compare the tokenizer with the `tokenizers` library, live, on a generated corpus of over 10,000 texts; then time it.

    check_tokenizer.py --tokenizer tokenizer.json --tool build/tokenize_tool [--lines 12000] [--seed 0] [--every-character] [--no-bench]

Both ways to encode: "markup" against the library as it is, "plain" against the same tokenizer without its added tokens, so that
"<|im_end|>" is text. The vocabulary goes to the tool as a GGUF written here with the PyPI package gguf. Exit status 1 on any difference,
and when typical text is encoded at under 10 MB/s.
"""
import argparse
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer


def write_gguf(spec, path):
    """A GGUF with nothing but the vocabulary."""
    import gguf
    added = {a["id"]: a for a in spec["added_tokens"]}
    names = {i: n for n, i in spec["model"]["vocab"].items()} | {i: a["content"] for i, a in added.items()}
    size = max(names) + 1
    kinds = [gguf.TokenType.UNUSED if i not in names else gguf.TokenType.NORMAL if i not in added
             else gguf.TokenType.CONTROL if added[i]["special"] else gguf.TokenType.USER_DEFINED for i in range(size)]
    writer = gguf.GGUFWriter(path, "qwen3vlmoe")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([names.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(m) for m in spec["model"]["merges"]])
    writer.add_eos_token_id(next(a["id"] for a in spec["added_tokens"] if a["content"] == "<|im_end|>"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


SAMPLES = """The quick brown fox doesn't jump over the lazy dog's back; they'll say WE'VE SEEN IT, I'D'S'M'LL'RE.
Größe, Ärger, façade, naïve, coöperate, São Tomé, Łódź, İstanbul, ŞIRINCE, dŽ, ǅ, ﬁ ﬂ ﬀ, ſ'ſet it'ſ
Съешь же ещё этих мягких французских булок, да выпей чаю. Ґанок їжак Ђорђе
Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία· ᾂ ᾳ ῳ
這是什麼？今天天氣很好，我們去公園散步吧。人工智能模型的分词器必须完全一致
いろはにほへと ちりぬるを。カタカナとひらがな、漢字が混ざった文です。ﾊﾝｶｸ ｶﾞ ㍿ ㌔
키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 각 한글
נקודות: שָׁלוֹם עֲלֵיכֶם ﬡ שׁ שּׁ
العربية: السَّلَامُ عَلَيْكُمْ ١٢٣٤ ۱۲۳ ﷽ ﻻ
हिन्दी में यह एक वाक्य है। क्षत्रिय ज्ञान ड़ ढ़ क़ १२३
বাংলা ভাষা কো ৌ ড় য় தமிழ் மொழி கொ కన్నడ ಕೋ മലയാളം ൊ සිංහල ෝ
ภาษาไทยไม่มีเว้นวรรค กำลังทดสอบ ລາວ ຳ မြန်မာ ဦ ཀྵ དབུ་ ཱི
ქართული ენა ᲥᲐᲠᲗᲣᲚᲘ Հայերեն լեզու ሰላም ልዑል ᚠᚢᚦ ᏣᎳᎩ ꭰꭱ 𐐷𐑊 ߒߞߏ ߫ ⵜⵉⴼⵉⵏⴰⵖ
😀 👨‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇯🇵 ☕️ ❤️‍🔥 1️⃣ 🫠 © ™ ∑∫√ ≠ ≠ ∄ ⫝̸ Å Ω Å
int main(void) {\\n\\tprintf("%d\\\\n", x[i] & 0xFF);\\n    return 0;\\n}\\r\\n// done\\r\\n
def f(x: dict[str, int]) -> None:\\n    return {k: v**2 for k, v in x.items() if k != 'a'}\\n\\n\\n
SELECT * FROM t WHERE a<=b AND c LIKE '%x%'; -- 3.14159e-10 0xdeadbeef 1_000_000 １２３ Ⅷ ½ ² ௧௨
<html lang="en"><body class='a'>&nbsp;<br/></body></html> {"k": [1, 2.5, null, true]} https://example.org/?a=b&c=d#e
<|im_start|>user\\nHello<|im_end|>\\n<think>no</think><tool_call>{"name": "f"}</tool_call><|audio_pad|><tts_pad> <|im_start |> <|im_<|im_end|>
\\u00a0\\u2003\\u3000 \\t\\t \\u200b\\ufeff\\u2028\\u2029\\u0085 end  \\n \\n\\n  \\r\\r\\n  x \\n""".split("\n")
SAMPLES = [re.sub(r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), s.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t")) for s in SAMPLES]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\r", "\n\n", "\u00a0", "\u3000", "\u2003", "\u0085", "\u2028", "\x0b", "\x1c", "\x00", "\u200b", "\ufeff"]
MARKS = [*range(0x300, 0x370), *range(0x591, 0x5C8), *range(0x64B, 0x660), 0x93C, 0x9BE, 0x9D7, 0xBBE, 0xDCF, 0xDCA, 0x1037, 0x102E, 0x1161, 0x1175,
         0x11A7, 0x11A8, 0x11C2, 0x11C3, 0x1DF6, 0x1DFA, 0x20D0, 0x3099, 0x309A, 0x11930, 0x110BA, 0x1D165, 0x1D16E, 0x1E08F, 0x897, 0x898, 0x16D67]
BASES = [*map(ord, "aeiouAEIOUyYnNcCsSzZ가각하"), 0x1100, 0x1112, 0x1161, 0x3B1, 0x3C9, 0x418, 0x43E, 0x915, 0x928, 0x9C7, 0xBC6, 0xDD9, 0x1025, 0x304B,
         0x30CF, 0x11935, 0x11099, 0x105D2, 0x105DA, 0x226, 0x1E0, 0x212B, 0x2126, 0x1F71, 0xFB1D, 0xF900, 0x2F800, 0x2ADC, 0x338, 0x1D15E, 0x16D63]
PUNCT = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["—", "…", "“", "”", "、", "。", "'s", "'S", "'ſ", "'ll", "'Ve", "'x", "''"]


def any_char(rng):
    while True:
        c = rng.choice([rng.randrange(0x80), rng.randrange(0x800), rng.randrange(0x3000), rng.randrange(0x10000), rng.randrange(0x110000),
                        rng.randrange(0x1F000, 0x1FB00), rng.randrange(0x4E00, 0xA000), rng.randrange(0xAC00, 0xD7B0)])
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def corpus(lines, seed, added):
    rng = random.Random(seed)
    words = [w for s in SAMPLES for w in s.split(" ") if w]
    texts = [s.encode() for s in SAMPLES] + [b"", b" ", b"\n", b"\xff", b"\xe4\xb8"]
    joined = "\n".join(SAMPLES)

    def mixture():
        parts = []
        for _ in range(rng.randrange(1, 25)):
            kind = rng.randrange(10)
            parts.append(rng.choice(words) if kind < 3 else rng.choice(SPACES) * rng.choice([1, 1, 2, 3, 7]) if kind < 5 else rng.choice(PUNCT)
                         if kind == 5 else str(rng.randrange(10 ** rng.randrange(1, 9))) if kind == 6 else any_char(rng) if kind == 7
                         else rng.choice(added) if kind == 8 and rng.random() < 0.3 else " ")
        return "".join(parts)

    def marks():
        return "".join(chr(rng.choice(BASES if rng.random() < 0.35 else MARKS)) if rng.random() < 0.9 else any_char(rng)
                       for _ in range(rng.randrange(1, 40)))

    def chars():
        return "".join(any_char(rng) for _ in range(rng.randrange(1, 40)))

    def runs():
        return "".join(rng.choice([rng.choice(words), any_char(rng), rng.choice(SPACES), rng.choice(PUNCT), rng.choice("abc")]) *
                       rng.choice([1, 2, 5, 30, 90]) for _ in range(rng.randrange(1, 6)))

    def slices():
        i = rng.randrange(len(joined))
        return joined[i:i + rng.randrange(1, 300)]

    def broken():
        b = bytearray(rng.choice([mixture, slices, chars])().encode())
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(b) + 1)
            what = rng.randrange(3)
            if what == 0:
                b.insert(at, rng.randrange(256))
            elif what == 1:
                b[at:at] = rng.choice([b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xe4\xb8", b"\xf0\x9f\x98", b"\xf8\x88\x80\x80\x80", b"\x80"])
            else:
                del b[at:at + rng.randrange(1, 3)]
        return bytes(b)
    makers = [mixture, mixture, mixture, marks, chars, runs, slices, slices, broken]
    while len(texts) < lines:
        made = rng.choice(makers)()
        texts.append(made if isinstance(made, bytes) else made.encode())
    return texts


def every_character():
    """Each code point: among its neighbours, after a letter and before a mark, and between the things that the pattern tells apart."""
    for start in range(0, 0x110000, 256):
        chars = [chr(c) for c in range(start, start + 256) if not 0xD800 <= c < 0xE000]
        yield "".join(chars).encode()
        yield "".join("e" + c + "\u0301\u0323" for c in chars).encode()
        yield "".join(" " + c + "x1\u0345" + c + c + "\n" for c in chars).encode()


def encode(tool, model, mode, texts):
    data = b"".join(struct.pack("<I", len(t)) + t for t in texts)
    out = subprocess.run([tool, model, mode], input=data, stdout=subprocess.PIPE, check=True).stdout.decode()
    return [[int(x) for x in line.split()] for line in out.split("\n")[:-1]]


def bench(tool, model, folder):
    """Typical text in a few kinds, some MB each; returns the slowest rate."""
    rng = random.Random(1)
    words = (SAMPLES[0] + " " + " ".join(SAMPLES[1:4])).split(" ")
    # words whose frequencies fall off as in real text, drawn from this environment's own documentation strings
    import argparse as a, asyncio, inspect, subprocess as s, tarfile, typing
    english = re.findall(r"\S+\s*", "".join(inspect.getdoc(m) or "" for m in (a, asyncio, s, tarfile, typing)) +
                         "".join(inspect.getsource(m) for m in (a, s, tarfile, typing)))
    prose = [w for w in english if re.fullmatch(r"[A-Za-z,.']+\s*", w)]
    cjk = SAMPLES[4] + SAMPLES[5]
    kinds = {
        "english": "".join(rng.choice(prose) for _ in range(600000)),
        "code": "".join(inspect.getsource(m) for m in (a, s, tarfile, typing, random, re.sub.__globals__["_compiler"])) * 10,
        "mixed": " ".join(rng.choice(words) for _ in range(500000)),
        "chinese": "".join(rng.choice(cjk) if rng.random() < 0.4 else chr(rng.randrange(0x4E00, 0x9FA0)) if rng.random() < 0.9 else "，" for _ in range(1200000)),
    }
    paths = []
    for name, text in kinds.items():
        paths.append(f"{folder}/{name}.txt")
        open(paths[-1], "w", encoding="utf-8").write(text)
    paths.append(f"{folder}/one-long-word.txt")
    open(paths[-1], "w").write("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(10_000_000)))
    out = subprocess.run([tool, model, "bench", *paths], stdout=subprocess.PIPE, check=True).stdout.decode()
    print(out.replace(folder + "/", ""), end="")
    return min(float(r) for r in re.findall(r"([\d.]+) MB/s", out)[:3])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--tool", required=True)
    p.add_argument("--lines", type=int, default=12000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--no-bench", action="store_true")
    p.add_argument("--every-character", action="store_true", help="also every code point in three surroundings: 36 MB, a minute")
    a = p.parse_args()
    spec = json.load(open(a.tokenizer, encoding="utf-8"))
    texts = corpus(a.lines, a.seed, [x["content"] for x in spec["added_tokens"]]) + (list(every_character()) if a.every_character else [])
    full = Tokenizer.from_str(json.dumps(spec))
    plain = Tokenizer.from_str(json.dumps(spec | {"added_tokens": []}))
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "vocabulary.gguf")
        write_gguf(spec, model)
        for mode, reference in (("markup", full), ("plain", plain)):
            got = encode(a.tool, model, mode, texts)
            assert len(got) == len(texts)
            want = [e.ids for e in reference.encode_batch([t.decode("utf-8", "replace") for t in texts], add_special_tokens=False)]
            bad = [i for i in range(len(texts)) if got[i] != want[i]]
            for i in bad[:5]:
                print(f"{mode}: {texts[i].decode('utf-8', 'replace')!r}\n  got  {got[i]}\n  want {want[i]}")
            print(f"{mode}: {len(texts)} texts, {sum(map(len, texts))} bytes, {sum(map(len, want))} tokens, {len(bad)} differ", flush=True)
            wrong += len(bad)
        slow = False
        if not a.no_bench:
            rate = bench(a.tool, model, folder)
            slow = rate < 10
            if slow:
                print(f"too slow: {rate} MB/s, at least 10 wanted")
    sys.exit(1 if wrong or slow else 0)


if __name__ == "__main__":
    main()
