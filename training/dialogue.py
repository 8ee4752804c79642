"""What is asked and answered in words alone: one function a skill gives (question, answer) from a random.Random; and the closed vocabulary of dictation.

Media come from pictures.py and sounds.py. Questions that other files add (what is in a picture) are answered honestly when there is none.
"""
import json, re
import texts
from phonemes import number_words
from texts import ANIMALS, CITIES, COLOURS, DAYS, FOOD, MONTHS, NAMES, SHAPES, THINGS

COMMON = """the a is are was in on at to of and or not no yes it this that there here what which where who how many see hear say tell read write open close start stop run play
help look ask give make take find show know think want like need can cannot will you we they he she my your his her first second third last next big small long short old new
good bad hot cold warm fast slow high low left right up down over under above below before after today tomorrow yesterday now later never always again please thank hello goodbye
sorry morning evening night day week month year hour minute time sun moon star sky sea rain snow wind fire water earth tree leaf flower grass stone wood gold silver iron glass
paper box bottle door window wall floor roof street city town village farm field forest hill island beach boat ship wheel engine letter word number name voice sound song music
dance picture story question answer friend mother father brother sister child man woman boy girl king queen doctor teacher farmer hand foot head eye ear nose mouth arm leg heart
red green blue yellow orange purple pink black white gray brown happy sad tired hungry ready empty full heavy light dark bright clean dirty easy hard soft loud quiet early late
one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty hundred zero plus minus""".split()
MORE = """about across against air almost alone among angry animal any apart army arrive art autumn baby back band bank basket bath bear become begin behind bell between blood bone brain branch
bread brick bring build busy calm camp cap care carry castle catch center chance cheap chief choose church circle class climb cloth coal coast come cook copper corn corner cotton count country
cover cow cross cry cut deep deer desk dinner draw dream dress drink drive drop dry dust east edge empty end enough enter even every fall family far fat feather fence find finger finish fit fix
flag flat fly fold follow fork free fresh friend front fruit game gate gentle gift glad glove goat goal grow guess guest half hall happen heat help hold holiday honey hope host hurry ice ink join
joke jump keep kind kiss knee knock lady last laugh law lazy lead learn leave lend lesson letter lift line lip list listen live lock lose love lucky lunch map market meet metal middle mile
mind mirror miss mix money more most move mud nail near neck needle nest nice noise north note nut ocean offer often oil only order other oven owner pack page pain paint pair park part party
pass path pay peace pencil pepper pet pick piece pillow pin pipe place plant""".split()
SAME_SOUND = set("a to write sea hear know pair read paint the".split())       # not told from others without a sentence around
VOCABULARY = [w for w in dict.fromkeys(w.lower() for w in COMMON + COLOURS + SHAPES + DAYS + MONTHS + ANIMALS + FOOD + THINGS + CITIES + NAMES + MORE) if w not in SAME_SOUND][:500]
HONEST = ["I do not know that. I am a very small model.", "I do not know. I am only a small model."]
NO_PICTURE, NO_SOUND = "I do not see a picture.", "I do not hear a sound."
SPELLED = [w for w in VOCABULARY if 2 <= len(w) <= 7]
OPPOSITES = dict(hot="cold", big="small", long="short", old="new", good="bad", fast="slow", high="low", left="right", up="down", open="closed", early="late", happy="sad",
                 heavy="light", dark="bright", clean="dirty", easy="hard", soft="hard", loud="quiet", empty="full", black="white", day="night", yes="no", first="last")
OF_COLOUR = dict(sky="blue", grass="green", snow="white", blood="red", banana="yellow", lemon="yellow", night="black", milk="white", leaf="green", fire="red", sun="yellow", coal="black")


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def word(n):
    return " ".join(number_words(n)).replace(" ", "-") if 20 < n < 100 and n % 10 else " ".join(number_words(n))


def capital(s):
    return s[0].upper() + s[1:]


def number(rng, n):
    """A number as people write it in a question."""
    return str(n) if rng.random() < 0.5 else word(n)


def greet(r):
    return r.choice(["Hello", "Hi", "Hello there", "Good morning", "Good evening", "Hey", "Hi there", "Hello!", "Hi!", "hello", "hi"]), "Hello! How can I help you?"


def who(r):
    return r.choice(["Who are you?", "What are you?", "What is your name?", "Tell me who you are.", "What's your name?", "Are you a person?", "Who is this?", "Say your name.", "Introduce yourself."]), \
        "I am Omni, a very small model that hears, sees and speaks."


def can(r):
    return r.choice(["What can you do?", "How can you help me?", "What do you know?", "What are you good at?", "Help.", "What can I ask you?", "Can you help me?"]), \
        "I can count, add, spell, name shapes and colors, and write down words."


def feel(r):
    return r.choice(["How are you?", "How are you today?", "How do you do?", "Are you well?"]), "I am fine, thank you."


def bye(r):
    return r.choice(["Goodbye", "Bye", "Goodbye!", "See you later.", "See you soon.", "Good night.", "Bye bye."]), "Goodbye!"


def thanks(r):
    return r.choice(["Thank you.", "Thanks!", "Thank you very much.", "Thanks a lot.", "Great, thanks."]), "You are welcome."


def count(r):
    kind = r.random()
    if kind < 0.5:
        n = r.randint(2, 20)
        return r.choice(["Count to {}.", "Please count to {}.", "Can you count to {}?", "Count up to {}."]).format(number(r, n)), capital(", ".join(word(i) for i in range(1, n + 1))) + "."
    a = r.randint(1, 15)
    b = a + r.randint(2, 6)
    if kind < 0.8:
        return r.choice(["Count from {} to {}.", "Please count from {} to {}."]).format(number(r, a), number(r, b)), capital(", ".join(word(i) for i in range(a, b + 1))) + "."
    a = r.randint(2, 12)
    return r.choice(["Count down from {}.", "Count backwards from {}."]).format(number(r, a)), capital(", ".join(word(i) for i in range(a, -1, -1))) + "."


def add(r):
    a, b = r.randint(0, 12), r.randint(0, 12)
    if r.random() < 0.7:
        q = r.choice(["What is {} plus {}?", "{} plus {}?", "How much is {} plus {}?", "Add {} and {}.", "What is the sum of {} and {}?", "What is {} and {}?"])
        x, y = number(r, a), number(r, b)
        if r.random() < 0.2:
            q, x, y = r.choice(["{} + {}", "What is {} + {}?", "{}+{}=", "{} + {} = ?"]), a, b
        return capital(q.format(x, y)), f"{capital(word(a))} plus {word(b)} is {word(a + b)}."
    a += b
    q, x, y = r.choice(["What is {} minus {}?", "{} minus {}?", "How much is {} minus {}?"]), number(r, a), number(r, b)
    if r.random() < 0.2:
        q, x, y = r.choice(["{} - {}", "What is {} - {}?"]), a, b
    return capital(q.format(x, y)), f"{capital(word(a))} minus {word(b)} is {word(a - b)}."


def after_number(r):
    n, later = r.randint(1, 40), r.random() < 0.6
    return r.choice(["What comes {} {}?", "Which number comes {} {}?", "What is the number {} {}?"]).format("after" if later else "before", number(r, n)), capital(word(n + 1 if later else n - 1)) + "."


def spell(r):
    w = r.choice(SPELLED)
    w = capital(w) if w in {n.lower() for n in NAMES + CITIES + DAYS + MONTHS} else w
    return r.choice(["Spell {}.", "Please spell {}.", "How do you spell {}?", "Spell the word {}.", "Can you spell {}?", "Spell \"{}\"."]).format(w), ", ".join(w.upper()) + "."


def day(r):
    names = DAYS if r.random() < 0.65 else MONTHS
    i, later = r.randrange(len(names)), r.random() < 0.6
    thing = "day" if names is DAYS else "month"
    q = r.choice([f"Which {thing} comes {{}} {{}}?", f"What {thing} comes {{}} {{}}?", f"What is the {thing} {{}} {{}}?", f"Which {thing} is {{}} {{}}?", f"Name the {thing} {{}} {{}}.", "What comes {} {}?",
                  f"What's the {thing} {{}} {{}}?"])
    return q.format("after" if later else "before", names[i]), names[(i + (1 if later else -1)) % len(names)] + "."


def all_of(r):
    return r.choice([("Name the days of the week.", ", ".join(DAYS) + "."), ("Which days are there?", ", ".join(DAYS) + "."), ("Name the months.", ", ".join(MONTHS) + "."),
                     ("How many days does a week have?", "Seven."), ("How many days are in a week?", "Seven."), ("How many months does a year have?", "Twelve."), ("How many months are in a year?", "Twelve.")])


def phrase(r):
    if r.random() < 0.5:
        return " ".join(r.choice(VOCABULARY) for _ in range(r.randint(1, 6)))
    return re.sub(r"[.?!]$", "", phrase.make()) if phrase.make else "the sky is blue"


phrase.make = None


def repeat(r):
    s = phrase(r)
    if len(s) > 60:
        s = s[:60].rsplit(" ", 1)[0]
    q = r.choice(["Repeat: {}", "Repeat after me: {}", "Say: {}", "Say {}", "Repeat the words {}", "Say \"{}\".", "Please repeat: {}."])
    return q.format(s), capital(s) + "."


def opposite(r):
    a = r.choice(list(OPPOSITES))
    return r.choice(["What is the opposite of {}?", "Name the opposite of {}.", "The opposite of {}?"]).format(a), capital(OPPOSITES[a]) + "."


def colour_of(r):
    a = r.choice(list(OF_COLOUR))
    the = {"snow": "snow", "blood": "blood", "milk": "milk", "coal": "coal", "fire": "fire", "banana": "a banana", "lemon": "a lemon", "leaf": "a leaf"}.get(a, "the " + a)
    return r.choice(["What {} is {}?", "Which {} is {}?"]).format(r.choice(["color", "colour"]), the), capital(OF_COLOUR[a]) + "."


def name(r):
    n = r.choice(NAMES)
    return r.choice(["My name is {}.", "I am {}.", "Hello, my name is {}.", "I'm {}.", "Hi, I am {}."]).format(n), f"Hello, {n}."


def unknown(r):
    c, thing, who = r.choice(CITIES), r.choice(THINGS + ANIMALS + FOOD), r.choice(NAMES)
    q = r.choice([f"What is the capital of {r.choice(['France', 'Spain', 'Italy', 'Japan', 'Norway', 'Egypt', 'Brazil', 'India'])}?", f"How far is {c}?", f"How many people live in {c}?", f"Who is {who}?", f"Where is {who}?",
                  f"What is the weather in {c}?", "What is the weather like?", "What time is it?", "What day is today?", f"Who made the {thing}?", f"How much does {article(thing)} cost?", f"Where is my {thing}?",
                  f"How old is {who}?", f"Write a poem about {article(thing)}.", f"Tell me about {c}.", f"Tell me a story about {article(thing)}.", "Who is the president?", f"How do I make {article(thing)}?",
                  f"What is {article(thing)}?", f"Why is {article(thing)} so {r.choice(['big', 'small', 'old', 'fast'])}?", "What is the meaning of life?", f"Translate {thing} into French.", "Tell me a joke.",
                  f"When was {c} built?", f"Who wrote {who}'s book?", f"What is {r.randint(21, 99)} times {r.randint(13, 99)}?", f"What is the square root of {r.randint(50, 999)}?", "Who won the game?",
                  f"What did {who} say?", f"Is {who} at home?", f"Can you buy {article(thing)} for me?", "What is the news?", f"How do I get to {c}?", "How tall is the highest mountain?",
                  f"What does {who} like?", "Write a program.", f"Explain how {article(thing)} works.", "What is love?", f"Which {thing} is the best?", f"Do you know {who}?"])
    return q, HONEST[0]


SEE = ["What is in the picture?", "What can you see in this picture?", "What do you see?", "Describe the picture.", "What is in this picture?", "What does the picture show?", "What can you see?", "Describe this image.",
       "What is in the image?", "What's in this picture?"]
HEAR = ["What do you hear?", "What can you hear?", "What was said?", "Write down the words.", "Who is speaking?", "Which voice is this?", "What did I say?", "Write down what you hear."]


def missing(r):
    if r.random() < 0.5:
        return r.choice(SEE + ["How many circles are there?", "What color is the square?", "Which digits do you see?", "Which way does the square move?", "What shape is it?"]), NO_PICTURE
    return r.choice(HEAR + ["Does the tone rise or fall?", "Is the tone rising or falling?"]), NO_SOUND


SKILLS = dict(greet=(greet, 2), who=(who, 2), can=(can, 1.5), feel=(feel, 1), bye=(bye, 1), thanks=(thanks, 1), count=(count, 3), add=(add, 5), after_number=(after_number, 1), spell=(spell, 5), day=(day, 3), all_of=(all_of, 1),
              repeat=(repeat, 5), opposite=(opposite, 1), colour_of=(colour_of, 1), name=(name, 1), unknown=(unknown, 4), missing=(missing, 1.5))
SPOKEN = ["greet", "who", "can", "feel", "bye", "thanks", "count", "add", "after_number", "spell", "day", "all_of", "opposite", "colour_of", "name", "unknown"]    # may be asked aloud


def held_out(question):
    """Whether a question is kept from training: by its text, one in twenty where there are many."""
    h = 0
    for c in question.lower():
        h = (h * 131 + ord(c)) % 1000003
    return h % 20 == 0


def ask(r, skills=None):
    """(skill, question, answer)"""
    names = skills or list(SKILLS)
    s = r.choices(names, [SKILLS[n][1] for n in names])[0]
    q, a = SKILLS[s][0](r)
    return s, q, a


# Tools: the model sees the list in the system turn, as omni and Qwen3 lay it out, and calls one or answers from what it gave.
TOOLS = [  # name, description, parameter, questions, values
    ("get_weather", "Weather of a city", "city", ["What is the weather in {}?", "How is the weather in {}?", "Is it raining in {}?", "Tell me the weather in {}."], CITIES),
    ("get_time", "Time in a city", "city", ["What time is it in {}?", "Tell me the time in {}.", "How late is it in {}?"], CITIES),
    ("call_person", "Calls a person", "name", ["Call {}.", "Please call {}.", "I want to talk to {}.", "Can you call {}?"], NAMES),
    ("buy", "Buys a thing", "thing", ["Buy {}.", "Please buy {}.", "I need {}.", "Can you buy {} for me?"], FOOD),
    ("play_music", "Plays music", "title", ["Play {}.", "Please play the song {}.", "I want to hear {}."], [capital(w) for w in THINGS + ANIMALS]),
    ("set_color", "Sets the color of the lamp", "color", ["Make the lamp {}.", "Set the lamp to {}.", "Turn the light {}."], COLOURS)]


def declare(tool, r):
    name, what, parameter = tool[:3]
    f = dict(name=name, description=what, parameters=dict(type="object", properties={parameter: dict(type="string")}, required=[parameter]))
    if r.random() < 0.3:
        f["parameters"]["properties"][parameter]["description"] = what
    if r.random() < 0.2:
        del f["description"]
    return json.dumps(dict(type="function", function=f), separators=((",", ":") if r.random() < 0.5 else (", ", ": ")))


def system_of(tools, r):
    return ("# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" +
            "".join("\n" + declare(t, r) for t in tools) + "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
            "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>")


def tool_turns(r):
    """(system text, [(user, answer)...]) of a conversation with tools."""
    tools = r.sample(TOOLS, r.choice([1, 1, 2, 3]))
    if r.random() < 0.3:
        _, q, a = ask(r, ["greet", "who", "add", "spell", "day", "count", "thanks"])
        return system_of(tools, r), [(q, a)]
    t = r.choice(tools)
    value = r.choice(t[4])
    turns = [(r.choice(t[3]).format(value), "<tool_call>\n" + json.dumps(dict(name=t[0], arguments={t[2]: value})) + "\n</tool_call>")]
    if t[0] in ("get_weather", "get_time") and r.random() < 0.6:
        if t[0] == "get_weather":
            what = r.choice(["sunny", "cloudy", "cold", "warm", "windy", "rainy", "hot", "foggy"])
            got, a = r.choice([what, json.dumps({"weather": what})]), f"It is {what} in {value}."
        else:
            what = f"{r.randint(1, 12)}:{r.randint(0, 59):02d}"
            got, a = r.choice([what, json.dumps({"time": what})]), f"It is {what} in {value}."
        turns.append(("\n<tool_response>\n" + got + "\n</tool_response>", a))
    elif t[0] in ("call_person", "buy", "play_music", "set_color") and r.random() < 0.3:
        turns.append(("\n<tool_response>\n" + r.choice(["ok", "done", '{"ok": true}']) + "\n</tool_response>", "Done."))
    return system_of(tools, r), turns


def spoken_form(text):
    """The words of a text as dictation writes them: lower case, numbers as words, no punctuation."""
    text = re.sub(r"\d+", lambda m: " " + word(int(m.group())) + " ", text)
    return " ".join(re.findall(r"[a-z']+", text.lower().replace("-", " ")))
