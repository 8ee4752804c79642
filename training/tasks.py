"""Conversations of all skills as batches of fixed shapes: text rows, and which sounds and pictures of the pools go into them.

A pool is made once; a Mixer, one in each worker process, draws from it without end. Nothing here needs a GPU.
"""
import functools, random
import numpy as np
import dialogue as D
import pictures as P
import sounds as S
from encode import PHONES
from sizes import VOICES, tokenizer
from thinker import CELLS, FRAMES, MOST_PATCHES, SECONDS, TOKENS, Grids, sound_tokens

SYSTEMS = ["You are a helpful assistant.", "You are Omni.", "Answer briefly.", "You are Qwen, a virtual human, capable of perceiving auditory and visual inputs, as well as generating text and speech."]
CATEGORIES = ["dictation", "dictation espeak", "dictation own", "spoken question", "spoken picture", "voice", "tone", "describe", "number", "how many", "color", "shape", "is there", "where", "background", "video",
              "text", "unknown", "missing", "tools", "silence"]


class Shape:
    """Of a batch: sounds, pictures, videos (each up to four pairs of frames), rows, tokens in a row."""

    def __init__(self, sounds=64, pictures=44, videos=8, rows=36, tokens=512):
        self.sounds, self.pictures, self.videos, self.rows, self.tokens = sounds, pictures, videos, rows, tokens
        self.units = pictures + 4 * videos


class Sounds:
    """Clips of folders: what is said and when, and where in the flat sound (at 16 kHz) and in the flat phones (one each 20 ms) each begins."""

    def __init__(self, folders):
        self.clips, self.files, phones, at, phones_at, file_at = [], [], [], 0, 0, {}
        for item, path in S.read(folders):
            rate = item.get("rate", 24000)
            if path not in file_at:
                n = len(np.memmap(path, np.int16, "r")) * 2 // 3 if rate == 24000 else len(np.memmap(path, np.int16, "r"))
                file_at[path] = at
                self.files.append((path, rate, at, n))
                at += n
            clip = dict(kind=item["kind"], text=item["text"], answer=item.get("answer"), voice=item["voice"], words=None,
                        source="kokoro" if "durations" in item else "espeak" if item["voice"] == "espeak" else "own" if item["text"] else "tone")
            begin, end, kinds = 0, item["samples"], None
            if "durations" in item:
                begin, end, kinds, clip["words"] = self.align(item)
            scale = 2 / 3 if rate == 24000 else 1
            clip.update(begin=file_at[path] + int((item["at"] + begin) * scale), samples=int((end - begin) * scale), phones=-1)
            if kinds is not None:
                clip["phones"] = phones_at
                phones.append(kinds)
                phones_at += len(kinds)
            if clip["samples"] <= S.MOST * 16000:
                self.clips.append(clip)
        self.phones, self.samples = np.concatenate(phones + [np.zeros(1, np.uint8)]), at
        self.kinds = {}
        for i, c in enumerate(self.clips):
            self.kinds.setdefault(c["kind"], []).append(i)
        self.sources = {}
        for i, c in enumerate(self.clips):
            if c["kind"] in ("list", "sentence", "question", "picture"):
                self.sources.setdefault((c["source"], "list" if c["kind"] == "list" else "other"), []).append(i)
        self.by_text = {}
        for i in self.kinds.get("picture", []):
            self.by_text.setdefault(self.clips[i]["text"], []).append(i)

    @staticmethod
    def align(item):
        """First and last sample to keep (24 kHz), phones each 20 ms, begin and end in seconds of each word of the dictation or None."""
        ends = np.cumsum(item["durations"]) * 600
        begin, end = max(0, ends[0] - 2400), min(item["samples"], ends[-2] + 3600)
        symbols = item["symbols"]
        kinds = np.array([PHONES.get(c, 0) for c in symbols] + [0])
        for i, c in enumerate(symbols):
            if c in "ˈˌː":
                kinds[i] = kinds[i + 1] if i + 1 < len(symbols) else 0
        which = np.searchsorted(ends, np.arange(begin, end, 480) + 240, side="right") - 1
        phones = np.where((which >= 0) & (which < len(symbols)), kinds[np.clip(which, 0, len(symbols))], 0).astype(np.uint8)
        marks, words = item["marks"], None
        if len(marks) == len(D.spoken_form(item["text"]).split()):
            stop = [(ends[m[1]] - begin) / 24000 for m in marks]
            words = list(zip([(ends[0] - begin) / 24000] + stop[:-1], stop))
        return int(begin), int(end), phones, words


def draw_pictures(job):
    """Pictures number a to b of a pool drawn into the open arrays; their descriptions come back."""
    paths, a, b, seed, video = job
    pixels, labels = np.load(paths[0], mmap_mode="r+"), np.load(paths[1], mmap_mode="r+")
    out = []
    for i in range(a, b):
        rng = random.Random(seed * 1000003 + i)
        p = P.video(rng) if video else P.picture(rng)
        x = P.patches(p.frames)
        n = x.shape[1]
        if video:
            pixels[4 * i:4 * i + len(x) // 2, :, :n] = x.reshape(-1, 2, n, 768)
        else:
            pixels[i, :n] = x[0]
            flat = p.label.reshape(-1, 2)
            labels[i, :len(flat)] = flat
            labels[i, len(flat):] = 255
        p.grid, p.pairs = (p.frames.shape[1] // 16, p.frames.shape[2] // 16), len(x) // 2
        del p.frames, p.label
        p.whole = None
        out.append(p)
    return out


class Pictures:
    """pixels uint8 [count, MOST_PATCHES, 768] (videos: [4 count, 2, 100, 768]) in a file, labels uint8 [count, CELLS, 2], and what each shows."""

    def __init__(self, folder, count, seed, video, processes):
        import os
        from multiprocessing import get_context
        os.makedirs(folder, exist_ok=True)
        name = f"{folder}/{'videos' if video else 'pictures'}-{seed}"
        self.pixels, self.labels = name + ".pixels.npy", name + ".labels.npy"
        np.lib.format.open_memmap(self.pixels, "w+", np.uint8, (4 * count, 2, 100, 768) if video else (count, MOST_PATCHES, 768)).flush()
        np.lib.format.open_memmap(self.labels, "w+", np.uint8, (count, CELLS, 2)).flush()
        jobs = [((self.pixels, self.labels), a, min(count, a + 100), seed, video) for a in range(0, count, 100)]
        if processes > 1:
            with get_context("fork").Pool(processes) as pool:
                self.shown = [p for part in pool.imap(draw_pictures, jobs) for p in part]
        else:
            self.shown = [p for job in jobs for p in draw_pictures(job)]


class Conversation:
    def __init__(self, ids):
        self.i, self.ids, self.pos, self.learn, self.at = ids, [], [], [], 0
        self.media, self.guides, self.answers = [], [], []          # (kind, slot, number, first column), (column, low, high), (category, first, end)

    def put(self, ids, learn=False):
        self.ids += ids
        self.pos += [(self.at + k,) * 3 for k in range(len(ids))]
        self.at += len(ids)
        self.learn += [learn] * len(ids)

    def sound(self, slot, n):
        self.put([self.i["<|audio_start|>"]])
        first = len(self.ids)
        self.media.append(("sound", slot, n, first))
        self.put([self.i["<|audio_pad|>"]] * n)
        self.put([self.i["<|audio_end|>"]])
        return first

    def picture(self, slot, grid, pairs=0):
        """pairs: of a video's frames; 0 for a picture."""
        self.put([self.i["<|vision_start|>"]])
        h, w = grid[0] // 2, grid[1] // 2
        for t in range(max(1, pairs)):
            self.media.append(("picture", slot + t, h * w, len(self.ids)))
            self.ids += [self.i["<|video_pad|>" if pairs else "<|image_pad|>"]] * (h * w)
            self.pos += [(self.at + 13 * t, self.at + r, self.at + c) for r in range(h) for c in range(w)]
            self.learn += [False] * (h * w)
        self.at += max(13 * (max(1, pairs) - 1), h - 1, w - 1) + 1
        self.put([self.i["<|vision_end|>"]])


class Mixer:
    def __init__(self, shape, sounds, pictures, videos, seed, training=True):
        self.shape, self.sounds, self.pictures, self.videos, self.training = shape, sounds, pictures, videos, training
        self.r = random.Random(seed)
        tok, self.ids, _ = tokenizer()
        self.encode = functools.lru_cache(200000)(lambda s: tok.encode(s, add_special_tokens=False))
        self.number = Grids.numbers()
        i = self.ids
        self.open = {role: [i["<|im_start|>"], i[role], i["Ċ"]] for role in ("system", "user", "assistant")}
        self.close, self.newline = [i["<|im_end|>"]], [i["Ċ"]]
        D.phrase.make = S.texts.Templates(self.r)

    def tokens(self, text):
        return self.encode(text).ids

    def user(self, c, text, before=(), after=()):
        c.put(self.open["user"])
        for put in before:
            put(c)
        c.put(self.tokens(text))
        for put in after:
            put(c)
        c.put(self.close + self.newline)

    def answer(self, c, text, category):
        c.put(self.open["assistant"])
        first = len(c.ids)
        c.put(self.tokens(text) + self.close, True)
        c.answers.append((category, first, len(c.ids)))
        c.put(self.newline)

    def begin(self, c, share=0.25):
        if self.r.random() < 0.1:
            c.put(self.open["system"] + self.tokens(self.r.choice(SYSTEMS)) + self.close + self.newline)
        while self.r.random() < share:
            self.words(c)

    def words(self, c, only=None):
        for _ in range(20):
            skill, q, a = D.ask(self.r, only)
            if skill == "missing" and c.media:
                continue
            if not self.training or not D.held_out(q):
                break
        self.user(c, q)
        self.answer(c, a, skill if skill in ("unknown", "missing") else "text")

    def new_sound(self, clip):
        """(slot, tokens, seconds before the clip, speed) of a clip as it will be heard."""
        r, c = self.r, self.sounds.clips[clip]
        slot = len(self.used_sounds)
        speed = r.uniform(0.9, 1.1) if self.training and r.random() < 0.7 else 1.0
        length = c["samples"] / 16000 / speed
        room = SECONDS - 0.02 - length
        lead, tail = (min(r.uniform(0, 0.4), room / 2), min(r.uniform(0, 0.4), room / 2)) if self.training or c["source"] == "tone" else (0.0, 0.0)
        frames = max(30, min(FRAMES, int((lead + length + tail) * 100)))
        noise = 10 ** -r.uniform(1.6, 4.0) if self.training and r.random() < 0.5 else 1e-4
        self.used_sounds.append((c["begin"], c["samples"], c["phones"], frames, lead, speed, r.uniform(0.3, 1.4) if self.training else 1.0, noise))
        return slot, int(sound_tokens(frames)), lead, speed

    def ask_about(self, c, texts, put):
        """A user turn with a medium and a text, the medium first more often than not."""
        if self.r.random() < 0.8:
            self.user(c, texts, before=[put])
        else:
            self.user(c, texts, after=[put])

    def hear(self, c):
        r, s = self.r, self.sounds
        kind = r.choices(["dictation", "question", "voice", "tone"], [60, 20, 7, 9])[0]
        if kind == "tone" and (s.kinds.get("tone") or s.kinds.get("silence")):
            clip = r.choice(s.kinds.get("tone", []) + s.kinds.get("silence", []))
            slot, n, _, _ = self.new_sound(clip)
            if s.clips[clip]["kind"] == "silence":
                self.ask_about(c, r.choice(S.HEARD + ["What do you hear?", "What can you hear?"]), lambda c: c.sound(slot, n))
                return self.answer(c, "I hear nothing.", "silence")
            q = r.choice(S.TONE + ["What do you hear?", "What can you hear?"])
            a = s.clips[clip]["answer"]
            self.ask_about(c, q, lambda c: c.sound(slot, n))
            return self.answer(c, "A tone. " + a if "hear" in q else a, "tone")
        sources = [(k, w) for k, w in ((("kokoro", "list"), 45), (("kokoro", "other"), 15), (("espeak", "list"), 15), (("espeak", "other"), 6), (("own", "list"), 15), (("own", "other"), 6)) if k in s.sources]
        if kind == "question" and "question" in s.kinds:
            clip = r.choice(s.kinds["question"])
            slot, n, _, _ = self.new_sound(clip)
            before = (lambda c: c.sound(slot, n),)
            self.user(c, r.choice(["", "", "Answer the question.", "Answer."]), before=before)
            return self.answer(c, s.clips[clip]["answer"], "spoken question")
        clip = r.choice(s.sources[r.choices([k for k, _ in sources], [w for _, w in sources])[0]])
        slot, n, lead, speed = self.new_sound(clip)
        x = s.clips[clip]
        if kind == "voice":
            self.ask_about(c, r.choice(S.WHO), lambda c: c.sound(slot, n))
            return self.answer(c, x["voice"].capitalize() + "." if x["voice"] in VOICES else S.STRANGER, "voice")
        at = []
        self.ask_about(c, r.choice(S.HEARD), lambda c: at.append(c.sound(slot, n)))
        said = D.spoken_form(x["text"])
        self.answer(c, said, "dictation" + {"espeak": " espeak", "own": " own"}.get(x["source"], ""))
        if x["words"]:
            _, first, end = c.answers[-1]
            word = np.cumsum([0] + [ch == " " for ch in said])
            for k, (a, b) in enumerate(self.encode(said).offsets):
                begin, stop = x["words"][min(word[b], len(x["words"]) - 1)]
                place = lambda t: int(t) * TOKENS + int((t - int(t)) * 12.5)
                low, high = place(lead + begin / speed), place(lead + stop / speed) + 1
                c.guides.append((first + k - 1, at[0] + min(low, n - 1), at[0] + min(high, n - 1)))

    def see(self, c):
        r = self.r
        which = r.randrange(len(self.pictures.shown))
        p = self.pictures.shown[which]
        slot = len(self.used_pictures)
        self.used_pictures.append((which, self.number[p.grid]))
        put = lambda c: c.picture(slot, p.grid)
        asked = P.questions(p, r)
        if len(self.used_sounds) < self.shape.sounds and r.random() < 0.3:
            aloud = [q for q in asked if q[1] in self.sounds.by_text]
            if aloud:
                kind, q, a = r.choice(aloud)
                s, n, _, _ = self.new_sound(r.choice(self.sounds.by_text[q]))
                hear = lambda c: c.sound(s, n)
                self.user(c, r.choice(["", "", "Answer the question.", "Answer."]), before=(put, hear) if r.random() < 0.85 else (hear, put))
                return self.answer(c, a, "spoken picture")
        described = [q for q in asked if q[0] == "describe"]
        rest = [q for q in asked if q[0] != "describe"]
        chosen = described if r.random() < 0.35 or not rest else [r.choice(rest)]
        chosen = chosen + [r.choice(asked) for _ in range(r.choice([0, 0, 1, 2]))]
        for k, (kind, q, a) in enumerate(chosen):
            if k == 0:
                self.ask_about(c, q, put)
            else:
                self.user(c, q)
            self.answer(c, a, kind)

    def watch(self, c):
        r = self.r
        which = r.randrange(len(self.videos.shown))
        p = self.videos.shown[which]
        slot = self.shape.pictures + 4 * len(self.used_videos)
        self.used_videos.append((which, self.number[p.grid]))
        for k in range(r.choice([1, 1, 2])):
            _, q, a = r.choice(P.video_questions(p, r))
            if k == 0:
                self.ask_about(c, q, lambda c: c.picture(slot, p.grid, p.pairs))
            else:
                self.user(c, q)
            self.answer(c, a, "video")

    def tools(self, c):
        system, turns = D.tool_turns(self.r)
        c.put(self.open["system"] + self.tokens(system) + self.close + self.newline)
        for q, a in turns:
            self.user(c, q)
            self.answer(c, a, "tools")

    def batch(self):
        """Arrays of one batch, and its answers (category, row, first column, end)."""
        sh, r = self.shape, self.r
        self.used_sounds, self.used_pictures, self.used_videos = [], [], []
        todo = []
        for kind, count in ((self.see, sh.pictures), (self.watch, sh.videos)):
            for _ in range(count):
                c = Conversation(self.ids)
                self.begin(c, 0.1)
                kind(c)
                todo.append(c)
        while len(self.used_sounds) < sh.sounds:
            c = Conversation(self.ids)
            self.begin(c, 0.1)
            self.hear(c)
            todo.append(c)
        for c in todo:
            while r.random() < 0.15:
                self.words(c)
        for _ in range(max(1, sh.rows // 12)):
            c = Conversation(self.ids)
            self.tools(c)
            todo.append(c)
        todo.sort(key=lambda c: -len(c.ids))
        R, T = sh.rows, sh.tokens
        b = dict(ids=np.zeros((R, T), np.int16), position=np.zeros((R, T, 3), np.int16), sequence=np.full((R, T), -1, np.int16), target=np.full((R, T), -1, np.int16),
                 low=np.full((R, T), -1, np.int16), high=np.full((R, T), -1, np.int16))
        b["ids"][:] = self.ids["<|endoftext|>"]
        b["sound_dest"] = np.arange(sh.sounds * SECONDS * TOKENS, dtype=np.int32).reshape(sh.sounds, -1) + R * T
        b["picture_dest"] = np.arange(sh.units * CELLS, dtype=np.int32).reshape(sh.units, -1) + R * T + b["sound_dest"].size
        fill, count, answers = np.zeros(R, int), np.zeros(R, int), []

        def place(c):
            row = int(np.argmin(fill))
            n, at = len(c.ids), int(fill[row])
            if at + n > T:
                return False
            b["ids"][row, at:at + n], b["position"][row, at:at + n], b["sequence"][row, at:at + n] = c.ids, c.pos, count[row]
            learn = np.array(c.learn[1:] + [False])
            b["target"][row, at:at + n][learn] = np.array(c.ids[1:] + [0])[learn]
            for column, low, high in c.guides:
                b["low"][row, at + column], b["high"][row, at + column] = at + low, at + high
            for kind, slot, m, first in c.media:
                b[kind + "_dest"][slot, :m] = row * T + at + first + np.arange(m)
            answers.extend((category, row, at + first - 1, at + end - 1) for category, first, end in c.answers)
            fill[row] += n
            count[row] += 1
            return True
        for c in todo:
            place(c)
        misses = 0
        while misses < 3:
            c = Conversation(self.ids)
            self.begin(c, 0)
            for _ in range(r.choice([1, 1, 2, 3, 4])):
                self.words(c)
            misses += not place(c)
        sound = np.zeros((sh.sounds, 8), np.float64)
        sound[:, 3] = 30
        sound[:len(self.used_sounds)] = self.used_sounds
        b["sound_dest"], b["picture_dest"] = b["sound_dest"].reshape(-1), b["picture_dest"].reshape(-1)
        b.update(clip=sound[:, :4].astype(np.int64), heard=sound[:, 4:].astype(np.float32))
        b["picture"] = np.array(self.used_pictures, np.int64).reshape(-1, 2)
        b["video"] = np.array(self.used_videos, np.int64).reshape(-1, 2)
        return b, answers
