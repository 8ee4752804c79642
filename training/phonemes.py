"""English text to the symbols of Kokoro's alphabet, word by word, so that text and symbols stay aligned.

Words come from the dictionaries of the PyPI package misaki (Apache 2.0: misaki/data/us_gold.json, us_silver.json), then from simple
inflections of words there, then from espeak-ng. Numbers are read as words.
"""
import json, re, subprocess

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = dict(one="first", two="second", three="third", five="fifth", eight="eighth", nine="ninth", twelve="twelfth")
VOWELS = set("AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻɐ")
WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*'?|\d+(?:st|nd|rd|th)\b|\d+:\d\d|\$?\d+(?:\.\d+)?%?|[,.;:!?]|[-—]")


def number_words(n):
    """The words of an integer below a million."""
    if n < 20:
        return [ONES[n]]
    if n < 100:
        return [TENS[n // 10]] + ([ONES[n % 10]] if n % 10 else [])
    if n < 1000:
        return [ONES[n // 100], "hundred"] + (number_words(n % 100) if n % 100 else [])
    return number_words(n // 1000) + ["thousand"] + (number_words(n % 1000) if n % 1000 else [])


def ordinal_words(n):
    words = number_words(n)
    last = words[-1]
    words[-1] = ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return words


def spoken(piece):
    """The words that a written number, time or sum is read as; None for an ordinary word."""
    if m := re.fullmatch(r"(\d+)(st|nd|rd|th)", piece):
        return ordinal_words(int(m[1]))
    if m := re.fullmatch(r"(\d+):(\d\d)", piece):
        hour, minute = int(m[1]), int(m[2])
        return number_words(hour) + (["o'clock"] if minute == 0 else ["oh", ONES[minute]] if minute < 10 else number_words(minute))
    m = re.fullmatch(r"(\$?)(\d+)(\.\d+)?(%?)", piece)
    if not m:
        return None
    digits, fraction = m[2], m[3]
    n = int(digits)
    if len(digits) > 6 or (len(digits) > 1 and digits[0] == "0"):
        words = [ONES[int(d)] for d in digits]
    elif 1100 <= n < 2100 and n % 1000 >= 10 and not m[1] and not fraction:     # read as a year
        words = number_words(n // 100) + (["hundred"] if n % 100 == 0 else (["oh"] if n % 100 < 10 else []) + number_words(n % 100))
    else:
        words = number_words(n)
    if fraction:
        words += ["point"] + [ONES[int(d)] for d in fraction[1:]]
    return words + (["dollar" if n == 1 and not fraction else "dollars"] if m[1] else []) + (["percent"] if m[4] else [])


# espeak-ng's symbols (with ties written ^) as Kokoro writes them
ESPEAK = [("ʔˌn̩", "ʔn"), ("ʔn̩", "ʔn"), ("a^ɪ", "I"), ("a^ʊ", "W"), ("d^ʒ", "ʤ"), ("e^ɪ", "A"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("o^ʊ", "O"), ("ə^l", "ᵊl"),
          ("e", "A"), ("ʲo", "jo"), ("ʲə", "jə"), ("ʲ", ""), ("ɚ", "əɹ"), ("r", "ɹ"), ("x", "k"), ("ç", "k"), ("ɐ", "ə"), ("ɬ", "l"), ("\u0303", ""),
          ("n̩", "ᵊn"), ("l̩", "ᵊl"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɪə", "iə"), ("ː", ""), ("o", "ɔ"), ("ɾ", "T"), ("ʔ", "t"), ("^", ""), ("g", "ɡ")]


class Phonemes:
    def __init__(self, misaki_data):
        self.words = {}
        for name in ("us_silver", "us_gold"):
            for word, symbols in json.load(open(f"{misaki_data}/{name}.json", encoding="utf-8")).items():
                self.words[word] = symbols["DEFAULT"] if isinstance(symbols, dict) else symbols
        for word, symbols in list(self.words.items()):
            self.words.setdefault(word.lower(), symbols)
        self.espeak = {}

    def lookup(self, word):
        """Symbols of a word from the dictionary or an inflection of a word there; None when unknown."""
        if word in self.words and self.words[word]:
            return self.words[word]
        low = word.lower()
        if self.words.get(low):
            return self.words[low]
        if low.endswith("'"):
            return self.lookup(low[:-1])
        for suffix, stems in (("'s", (low[:-2],)), ("ies", (low[:-3] + "y",)), ("es", (low[:-1], low[:-2])), ("s", (low[:-1],))):
            if low.endswith(suffix):
                for stem in stems:
                    p = self.words.get(stem)
                    if p:
                        return p + ("s" if p[-1] in "ptkfθ" else "ᵻz" if p[-1] in "szʃʒʧʤ" else "z")
        for suffix, end in (("ed", "d"), ("ing", "ɪŋ")):
            if low.endswith(suffix):
                cut = low[:-len(suffix)]
                for stem in (cut, cut + "e", cut[:-1] if cut[-2:-1] == cut[-1:] else ""):
                    p = self.words.get(stem)
                    if p:
                        return p + (end if suffix == "ing" else "ᵻd" if p[-1] in "td" else "t" if p[-1] in "pkfθʃsʧ" else "d")
        return self.espeak.get(low)

    def learn(self, texts):
        """Asks espeak-ng once for all the words of the texts that the dictionary lacks."""
        unknown = sorted({w.lower() for t in texts for w in WORD.findall(t) if w[0].isalpha() and not self.lookup(w)})
        if not unknown:
            return
        got = subprocess.run(["espeak-ng", "-q", "--ipa", "--tie=^", "-v", "en-us"], input="\n".join(unknown) + "\n", capture_output=True, text=True, check=True).stdout.split("\n")
        assert len(got) >= len(unknown), "espeak-ng gave fewer lines than words"
        for word, symbols in zip(unknown, got):
            symbols = re.sub(r"\([a-z-]+\)", "", symbols.strip())
            for old, new in ESPEAK:
                symbols = symbols.replace(old, new)
            self.espeak[word] = symbols.replace(" ", "")

    def word(self, word, following):
        """Symbols of one word; `following` is the first symbol after it, or None before a pause."""
        low = word.lower()
        if low == "a":                          # before a pause it is the letter
            return "ɐ" if following else "ˈA"
        if low == "an":
            return "ɐn"
        if low == "the":
            return "ði" if following in VOWELS else "ðə"
        if low == "to" and following:
            return "tʊ" if following in VOWELS else "tə"
        if low == "in" and following:
            return "ɪn"
        if word == "I":
            return "ˌI"
        return self.lookup(word)

    def __call__(self, text):
        """(symbols, marks): marks has [end in the text, end in the symbols] of each piece that is spoken. None when a word is unknown."""
        pieces = [(m.group(), m.end()) for m in WORD.finditer(text)]
        out, marks, following = [], [], None
        for piece, end in reversed(pieces):     # backwards: the form of some words depends on the next sound
            if piece in ",.;:!?":
                out.append((piece, None))
                following = None
                continue
            if piece in "-—":
                continue
            symbols = []
            for w in reversed(spoken(piece) or [piece]):
                s = self.word(w, following)
                if not s:
                    return None
                symbols.append(s)
                following = next((c for c in s if c not in "ˈˌ"), None)
            out.append((" ".join(reversed(symbols)), end))
        result = ""
        for symbols, end in reversed(out):
            if end is None:
                result = result.rstrip() + symbols
            else:
                result += (" " if result else "") + symbols
                marks.append([end, len(result)])
        return result, marks
