#!/usr/bin/env python3
"""Training sentences and the 60 held-out test sentences, with symbols for the teacher.

    texts.py WORDNET_DIR MISAKI_DATA OUT_DIR [--sentences N]

WORDNET_DIR has data.noun and so on (Debian: wordnet-base); its examples and definitions, and sentences made from templates, are the text. Writes
OUT_DIR/train.jsonl and OUT_DIR/test.jsonl: an object a line with text, voice, symbols and marks (see phonemes.py). Voices take turns.
"""
import argparse, glob, json, os, random, re
from phonemes import Phonemes

HERE = os.path.dirname(os.path.abspath(__file__))
VOICES = ["chelsie", "ethan", "aiden"]
TEST = open(os.path.join(HERE, "test-sentences.txt"), encoding="utf-8").read().strip().split("\n")

COLOURS = "red green blue yellow orange purple pink black white gray brown".split()
SHAPES = "circle square triangle star rectangle house tree sun cat dog car ball box cross line dot heart moon flower fish bird boat door window roof cloud".split()
SIZES = "big small large tiny little huge tall short wide thin".split()
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
DIGITS = "zero one two three four five six seven eight nine".split()
PLACES = ["on the left", "on the right", "at the top", "at the bottom", "in the middle", "in the corner", "in the center", "in the sky", "on the grass", "in the background"]
RELATIONS = ["above", "below", "next to", "to the left of", "to the right of", "behind", "in front of", "inside", "between", "under", "near"]
PEOPLE = "I you we they".split()
VERBS = "see hear think know say want like need find make take give show tell read write open close start stop run play help look ask".split()
WHEN = "now today again here there always never often maybe soon later tomorrow".split()
NAMES = """James Mary John Linda David Susan Robert Karen Michael Lisa William Nancy Thomas Sandra Daniel Emily Paul Laura Mark Anna George Helen Peter Alice
Kevin Julia Brian Grace Edward Ruth Henry Sarah Oliver Emma Jack Sophia Lucas Mia Leo Clara Max Nora Sam Kate Ben Ella Adam Rose""".split()
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
CITIES = "London Paris Berlin Rome Madrid Tokyo Boston Chicago Denver Dublin Sydney Oslo Vienna Prague Lisbon Athens Cairo Delhi Moscow Toronto".split()
ANIMALS = "cat dog horse cow sheep pig bird fish duck goose mouse rabbit lion tiger bear wolf fox deer frog snake".split()
FOOD = "bread rice soup cheese salad cake apple orange banana lemon coffee tea milk water juice butter sugar salt egg potato".split()
THINGS = "table chair book pen phone lamp clock key cup plate knife bag coat hat shoe shirt train bus bike plane road bridge river lake mountain garden kitchen school office".split()


def plural(noun):
    return dict(house="houses", box="boxes", cross="crosses", fish="fish", sheep="sheep", mouse="mice", goose="geese", wolf="wolves", knife="knives",
                potato="potatoes", bus="buses").get(noun, noun + "s")


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


class Templates:
    """Sentences as an assistant says them, from lists of words; one method a kind."""

    def __init__(self, rng):
        self.rng, self.c = rng, rng.choice
        self.kinds = [getattr(self, m) for m in dir(self) if m.startswith("say_")]

    def __call__(self):
        text = self.c(self.kinds)()
        return text[0].upper() + text[1:]

    def number(self):
        r = self.rng.random()
        return str(self.rng.randrange(10) if r < .3 else self.rng.randrange(100) if r < .7 else self.rng.randrange(1000) if r < .9 else self.rng.randrange(1900, 2100))

    def noun(self):
        c, s = self.c(COLOURS), self.c(SHAPES)
        return self.c([f"{c} {s}", f"{self.c(SIZES)} {c} {s}", f"{c} {s}", f"{self.c(SIZES)} {s}"])

    def many(self):
        n = self.c(NUMBERS)
        return f"{n} {self.c(COLOURS)} {self.c(SHAPES)}" if n == "one" else f"{n} {self.c(COLOURS)} {plural(self.c(SHAPES))}"

    def thing(self):
        return self.c(THINGS + ANIMALS + FOOD)

    def say_see(self): return f"I can see {article(self.noun())} {self.c(PLACES)}."
    def say_there(self): return f"There is {article(self.noun())} {self.c(PLACES)} and {article(self.noun())} {self.c(PLACES)}."
    def say_there_are(self): return f"There are {self.many()} and {self.many()} in the picture."
    def say_relation(self): return f"The {self.noun()} is {self.c(RELATIONS)} the {self.noun()}."
    def say_picture(self): return f"The picture shows {self.many()} and {article(self.noun())}."
    def say_it(self): return f"{self.c(['It is', 'This is', 'That is', 'It looks like', 'I hear', 'I think it is'])} {article(self.c([self.noun(), self.thing()]))}."
    def say_number(self): return f"The {self.c(['number', 'digit', 'answer', 'first digit', 'last digit', 'sum', 'result', 'next number'])} is {self.c([self.number(), self.c(DIGITS), self.c(NUMBERS)])}."
    def say_digits(self): return f"I see the {self.c(['digits', 'numbers'])} {', '.join(self.c(DIGITS) for _ in range(self.rng.randrange(2, 6)))} and {self.c(DIGITS)}."
    def say_yes(self): return f"{self.c(['Yes', 'No', 'Yes, it is', 'No, it is not', 'Maybe', 'Sure', 'Okay', 'I think so', 'I am not sure', 'Of course'])}{self.c(['.', ', there is ' + article(self.noun()) + '.', ', the ' + self.c(SHAPES) + ' is ' + self.c(COLOURS) + '.'])}"
    def say_colour(self): return f"The {self.c(SHAPES)} is {self.c(COLOURS)}{self.c(['', ' and ' + self.c(COLOURS), ' and ' + self.c(SIZES)])}."
    def say_sum(self): return f"{self.number()} {self.c(['plus', 'minus', 'times', 'divided by'])} {self.number()} {self.c(['is', 'equals', 'makes'])} {self.number()}."
    def say_sum_of(self): return f"The {self.c(['sum', 'product', 'difference'])} of {self.number()} and {self.number()} is {self.number()}."
    def say_you_said(self): return f"You said {self.c(['that ', '', 'the ' + self.thing() + ' and '])}the {self.c(SHAPES + THINGS)} {self.c(['is', 'was'])} {self.c(COLOURS + ['open', 'closed', 'here', 'gone'])}."
    def say_question(self): return f"{self.c(['What', 'Which', 'Where', 'How many', 'Who'])} {self.c(['color is the', 'is the', 'shape is the', 'are the', 'do you see next to the'])} {self.c(SHAPES)}?"
    def say_hello(self): return f"{self.c(['Hello', 'Hi', 'Good morning', 'Good evening', 'Welcome', 'Goodbye', 'Thank you', 'Please', 'Sorry'])}, {self.c(PEOPLE)} {self.c(VERBS)} {self.c(['it', 'that', 'this', 'the ' + self.c(SHAPES)])} {self.c(WHEN)}."
    def say_modal(self): return f"{self.c(PEOPLE).capitalize()} {self.c(['can', 'cannot', 'will', 'do not', 'would', 'could', 'should', 'must'])} {self.c(VERBS)} {self.c(['the', 'a', 'this', 'that', 'my', 'your'])} {self.c(SHAPES)} {self.c(WHEN)}."
    def say_time(self): return f"It is {self.c(NUMBERS)} {self.c(['thirty', 'fifteen', 'in the morning', 'at night', 'in the afternoon'])}."
    def say_clock(self): return f"The {self.c(['train', 'bus', 'plane', 'meeting', 'class', 'show'])} {self.c(['leaves', 'starts', 'ends', 'arrives'])} at {self.rng.randrange(1, 13)}:{self.rng.randrange(60):02d}{self.c(['', ' tomorrow', ' today', ' in the morning', ' at night'])}."
    def say_half(self): return f"The {self.c(['train', 'bus', 'shop', 'office', 'game'])} {self.c(['leaves', 'opens', 'closes', 'starts'])} at {self.c(['half past', 'a quarter past', 'a quarter to'])} {self.c(NUMBERS)}."
    def say_date(self): return f"{self.c(['Today is', 'It was', 'The date is', 'We meet on', 'Her birthday is'])} {self.c([self.c(DAYS) + ', ', ''])}{self.c(MONTHS)} {self.rng.randrange(1, 29)}{self.c(['', ', ' + str(self.rng.randrange(1950, 2050))])}."
    def say_ordinal(self): return f"{self.c(['He', 'She', self.c(NAMES)])} was {self.c(['first', 'second', 'third', 'fourth', 'fifth', 'sixth', 'last'])} in {self.c(['line', 'the race', 'class'])}."
    def say_counts(self): return f"The picture has {self.number()} {plural(self.c(SHAPES))} and {self.number()} {plural(self.c(SHAPES))}."
    def say_how(self): return f"How {self.c(['many', 'big', 'far', 'old', 'tall', 'long'])} {self.c(['is', 'was', 'are'])} the {self.noun()}?"
    def say_this(self): return f"This {self.c(['model', 'program', 'computer', 'voice', 'picture', 'sound', 'file', 'song'])} {self.c(['runs', 'works', 'speaks', 'starts', 'sounds good', 'is small', 'is very fast', 'is new'])} {self.c(WHEN)}."
    def say_row(self): return f"{self.c(DIGITS)}, {', '.join(self.c(DIGITS) for _ in range(self.rng.randrange(1, 6)))}."
    def say_spell(self): return f"{' '.join(self.c('ABCDEFGHIJKLMNOPQRSTUVWXYZ') + ',' for _ in range(self.rng.randrange(2, 6)))} {self.c('ABCDEFGHIJKLMNOPQRSTUVWXYZ')}."
    def say_plural(self): return f"{self.c(NUMBERS[1:])} {self.c(COLOURS)} {plural(self.c(SHAPES + ANIMALS))}."
    def say_noun(self): return f"{article(self.noun())}."
    def say_my(self): return f"My {self.c(['name', 'voice', 'answer', 'model', 'picture', 'favorite color'])} is {self.c(COLOURS + NUMBERS + ['Omni', 'small', 'good', 'clear', 'new'])}."
    def say_compare(self): return f"The {self.c(SHAPES + ANIMALS)} is {self.c(['bigger', 'smaller', 'taller', 'darker', 'brighter', 'closer', 'higher', 'lower', 'faster', 'older'])} than the {self.c(SHAPES + ANIMALS)}."
    def say_here(self): return f"Here {self.c(['is', 'comes', 'we see'])} {article(self.noun())}, {article(self.noun())} and {article(self.noun())}."
    def say_name(self): return f"{self.c(['My name is', 'This is', 'I am', 'Please call', 'Have you met', 'Hello,'])} {self.c(NAMES)}{self.c(['.', ', and I live in ' + self.c(CITIES) + '.', ' from ' + self.c(CITIES) + '.'])}"
    def say_person(self): return f"{self.c(NAMES)} {self.c(['has', 'wants', 'sees', 'likes', 'bought', 'found', 'lost', 'needs'])} {article(self.c([self.thing(), self.noun()]))} {self.c(['', 'today', 'in ' + self.c(CITIES), 'on ' + self.c(DAYS), 'for ' + self.c(NAMES)])}".strip() + "."
    def say_buy(self): return f"{self.c(PEOPLE).capitalize()} would like {self.c(['some ' + self.c(FOOD), self.c(NUMBERS[1:]) + ' ' + plural(self.c(['apple', 'orange', 'banana', 'lemon', 'egg', 'potato', 'cake']))])} and {self.c(['some ' + self.c(FOOD), article(self.c(FOOD))])}, please."
    def say_price(self): return f"The {self.thing()} costs {self.c(['$', ''])}{self.rng.randrange(2, 300)}{self.c(['', '.5', '.25'])}." if self.rng.random() < .5 else f"It costs {self.rng.randrange(2, 100)} dollars."
    def say_percent(self): return f"{self.rng.randrange(1, 100)}% of the {plural(self.c(SHAPES))} are {self.c(COLOURS)}."
    def say_weather(self): return f"{self.c(['It will be', 'It was', 'It is'])} {self.c(['sunny', 'cloudy', 'cold', 'warm', 'windy', 'rainy', 'hot', 'dark'])} and {self.c(['dry', 'wet', 'bright', 'quiet', 'foggy', 'cool'])} in {self.c(CITIES)} {self.c(['today', 'tomorrow', 'on ' + self.c(DAYS)])}."
    def say_sound(self): return f"{self.c(['I hear', 'That sounds like', 'You can hear'])} {article(self.c(ANIMALS))} and {self.c(['a high tone', 'a low tone', 'a voice', 'some music', 'a bell', 'the rain'])}."
    def say_help(self): return self.c(["How can I help you", "What can I do for you", "Is there anything else", "Do you have a question", "What would you like to know", "Can you hear me", "Shall we start",
                                       "Could you say that again", "Would you like to hear more", "What do you think"]) + self.c(["?", " today?", " now?", f" about the {self.thing()}?"])
    def say_sorry(self): return self.c(["I am sorry", "Excuse me", "I do not know", "I did not understand", "Let me think", "That is a good question", "You are welcome", "Thank you very much", "No problem", "See you soon"]) + \
        self.c([".", f", {self.c(NAMES)}.", ", but " + self.c(["I can try again.", "please ask me later.", "I like it.", "that is all I know."])])


def clean(s):
    """A phrase of WordNet as a sentence that can be read aloud, or None."""
    s = s.replace("`", "'").replace("--", ", ").replace(";", ",").replace(":", ",").replace("_", " ")
    s = re.sub(r"\([^)]*\)", " ", s)
    s = re.sub(r"\s+", " ", s).strip(" ,-'")
    s = re.sub(r" ([,.?!])", r"\1", s)
    if not re.fullmatch(r"[A-Za-z0-9 ,.?!'\-]+", s) or re.search(r"\d[a-z]|[a-z]\d|\d{5}|[.,?!'\-]{2}|[A-Z]{2}|\.\w|\d,|(^|\s)'", s):
        return None
    return None if sum(c.isupper() for c in s) > 0.12 * len(s) + 1 else s


def wordnet(folder, rng):
    out = []
    for path in sorted(glob.glob(folder + "/data.*")):
        for line in open(path, encoding="latin-1"):
            if " | " not in line:
                continue
            gloss = line.split(" | ", 1)[1].strip()
            definition = re.sub(r'"[^"]*"', "", gloss).split(";")[0]
            for phrase, share in [(p, 1.0) for p in re.findall(r'"([^"]+)"', gloss)] + [(definition, 0.6)]:
                s = clean(phrase)
                if s and 14 <= len(s) <= 110 and rng.random() < share:
                    s = s[0].upper() + s[1:] if rng.random() < 0.92 else s
                    out.append(s if s[-1] in ".?!" else s + ("." if rng.random() < 0.93 else ""))
    return out


def sentences(folder, count, rng):
    """WordNet's phrases and templates, mixed, some of them two sentences long."""
    key = lambda s: re.sub(r"[^a-z ]", "", s.lower()).strip()
    held_out = {key(t) for t in TEST}
    make = Templates(rng)
    phrases = list(dict.fromkeys(wordnet(folder, rng)))
    rng.shuffle(phrases)
    out, seen = [], set(held_out)
    for s in phrases:
        batch = [s]
        while rng.random() < 0.3:
            batch.append(make())
        for t in batch:
            if len(t) < 50 and rng.random() < 0.3 and t[-1] in ".?!":
                t = t + " " + (make() if rng.random() < 0.5 else rng.choice(phrases))
            if len(t) > 150 or any(key(p) in held_out for p in re.split(r"(?<=[.?!]) ", t)) or key(t) in seen:
                continue
            seen.add(key(t))
            out.append(t)
    rng.shuffle(out)
    return out[:count]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("wordnet"); p.add_argument("misaki"); p.add_argument("out"); p.add_argument("--sentences", type=int, default=160000)
    a = p.parse_args()
    phonemes, rng = Phonemes(a.misaki), random.Random(1)
    os.makedirs(a.out, exist_ok=True)
    for name, texts in (("test", TEST), ("train", sentences(a.wordnet, a.sentences, rng))):
        phonemes.learn(texts)
        n = chars = dropped = 0
        with open(f"{a.out}/{name}.jsonl", "w", encoding="utf-8") as f:
            for text in texts:
                got = phonemes(text)
                if got is None or not 4 <= len(got[0]) <= 300:
                    dropped += 1
                    continue
                f.write(json.dumps(dict(text=text, voice=VOICES[n % 3], symbols=got[0], marks=got[1]), ensure_ascii=False) + "\n")
                n, chars = n + 1, chars + len(text)
        print(f"{name}: {n} sentences, {chars} characters, {dropped} left out, {len(phonemes.espeak)} words by espeak-ng")


if __name__ == "__main__":
    main()
