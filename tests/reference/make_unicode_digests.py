#!/usr/bin/env python3
"""Write tests/data/text/unicode.txt: what the reference tokenizer makes of every code point, a line for each block of 4096.

    make_unicode_digests.py > tests/data/text/unicode.txt

A line is: the block's first code point, then CRC-32 sums of (a) a byte a code point, 1 letter, 2 number, 3 whitespace, 0 none of them, asked of the
`tokenizers` library's regular expressions one character at a time, and (b) the NFC of the strings x, "e" x U+0323 and x U+0301 U+0345 U+0334 for each
code point x, in UTF-8. Surrogates are left out. This asks for behaviour, where make_unicode_tables.py gathers sets.
"""
import zlib
from tokenizers import Regex, normalizers, pre_tokenizers

splits = [pre_tokenizers.Split(Regex(p), behavior="removed") for p in (r"\p{L}", r"\p{N}", r"\s")]
nfc = normalizers.NFC().normalize_str
print("# made by tests/reference/make_unicode_digests.py")
for first in range(0, 0x110000, 4096):
    classes = composed = 0
    for c in range(first, first + 4096):
        if 0xD800 <= c < 0xE000:
            continue
        x = chr(c)
        found = [i + 1 for i, s in enumerate(splits) if not s.pre_tokenize_str(x)]
        assert len(found) < 2
        classes = zlib.crc32(bytes(found or [0]), classes)
        for s in (x, "e" + x + "\u0323", x + "\u0301\u0345\u0334"):
            composed = zlib.crc32(nfc(s).encode(), composed)
    print(f"{first:X} {classes:08x} {composed:08x}")
