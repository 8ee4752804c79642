#!/usr/bin/env python3
"""Write src/text/unicode_tables.c: what the reference tokenizer takes for letters, numbers, whitespace and marks.

The `tokenizers` library carries two Unicode versions of its own (one in its regular expressions, an older one in its NFC), and every
system's utf8proc another, so the sets are asked of the library itself, one code point at a time. Run it with a newer library to
follow it; check_tokenizer.py says whether the tables still agree.

    make_unicode_tables.py > src/text/unicode_tables.c && clang-format -i src/text/unicode_tables.c
"""
import unicodedata
import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def matched(pattern):
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed")
    found = set()
    for start in range(0, len(CODES), 4096):
        chars = [chr(c) for c in CODES[start:start + 4096]]
        kept = "".join(text for text, _ in split.pre_tokenize_str("".join(chars)))
        found |= set(map(ord, chars)) - set(map(ord, kept))
    return found


def nfc_active():
    """Code points that NFC changes, moves, or joins to what stands before them."""
    nfc = normalizers.NFC().normalize_str
    low, high = "\u0334", "\u0345"                  # marks of the lowest and the highest combining class
    firsts, seconds = set(), {low, high}
    for c in CODES:
        pair = unicodedata.decomposition(chr(c))
        if pair and not pair.startswith("<") and " " in pair:
            a, b = (chr(int(x, 16)) for x in pair.split())
            firsts.add(a)
            if nfc(a + b) != a + b:
                seconds.add(b)
    seconds |= {chr(c) for c in range(0x1161, 0x1176)} | {chr(c) for c in range(0x11A8, 0x11C3)}
    assert nfc("\u1100\u1161\u11a8") == "\uac01" and nfc("\uac00\u11a7") == "\uac00\u11a7"
    moves = lambda a, b: nfc("x" + a + b) == "x" + b + a
    return {c for c in CODES if nfc(chr(c)) != chr(c) or chr(c) in seconds or moves(chr(c), low) or moves(high, chr(c))}


def ranges(codes):
    out = []
    for c in sorted(codes):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


print(f"""/* Written by tests/reference/make_unicode_tables.py from tokenizers {tokenizers.__version__}; do not edit. */
#include "text/unicode_tables.h"
""")
for name, codes in (("letter", matched(r"\p{L}")), ("number", matched(r"\p{N}")), ("space", matched(r"\s")), ("nfc_active", nfc_active())):
    rows = ranges(codes)
    print(f"const unicode_range unicode_{name}[] = {{" + ", ".join(f"{{0x{a:X}, 0x{b:X}}}" for a, b in rows) + "};")
    print(f"const size_t unicode_{name}_count = {len(rows)};\n")
