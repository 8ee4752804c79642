"""Drawn pictures and short videos, with what can be asked about them. Sizes are those that omni (and transformers' processor) gives a picture of any size,
since the exported limits of pixels leave little choice: 36 to 49 embeddings a picture, 16 to 25 each pair of a video's frames.
"""
import io, math, os
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from dialogue import SEE, article, capital, word

PATCH, FACTOR, MOST_PATCHES = 16, 32, 196
PIXELS, VIDEO_PIXELS = (192 * 192, 224 * 224), (128 * 128, 160 * 160)     # least and most, of a picture and of a video's frame
PALETTE = dict(red=[(220, 30, 30), (200, 60, 50), (255, 0, 0)], green=[(40, 160, 60), (0, 128, 0), (90, 190, 70), (0, 200, 0)], blue=[(40, 80, 220), (0, 0, 255), (60, 120, 200), (20, 40, 140)],
               yellow=[(245, 220, 60), (255, 255, 0), (250, 210, 30)], orange=[(250, 140, 20), (255, 165, 0), (240, 120, 40)], purple=[(130, 50, 170), (128, 0, 128), (150, 80, 200)],
               pink=[(255, 170, 200), (255, 105, 180), (250, 150, 190)], black=[(0, 0, 0), (20, 20, 20), (35, 35, 35)], white=[(255, 255, 255), (245, 245, 245)],
               gray=[(128, 128, 128), (150, 150, 150), (105, 105, 105)], brown=[(120, 70, 30), (139, 69, 19), (100, 55, 35)])
COLOURS = list(PALETTE)
FIGURES = ["circle", "square", "triangle", "star", "rectangle", "heart", "cross"]
KINDS = FIGURES + [str(d) for d in range(10)] + ["house", "roof", "door", "sun", "tree"]       # 0 is nothing in labels
MANY = dict(cross="crosses", house="houses")
WAYS = dict(left=(-1, 0), right=(1, 0), up=(0, -1), down=(0, 1))


def smart_resize(h, w, least, most):
    """The processor's size for a picture of h x w pixels."""
    a, b = round(h / FACTOR) * FACTOR, round(w / FACTOR) * FACTOR
    if a * b > most:
        beta = math.sqrt(h * w / most)
        a, b = max(FACTOR, math.floor(h / beta / FACTOR) * FACTOR), max(FACTOR, math.floor(w / beta / FACTOR) * FACTOR)
    elif a * b < least:
        beta = math.sqrt(least / (h * w))
        a, b = math.ceil(h * beta / FACTOR) * FACTOR, math.ceil(w * beta / FACTOR) * FACTOR
    return a, b


def fonts():
    """Font files of digits: DejaVu where it is installed or OMNI_FONTS names a folder; Pillow's own besides."""
    found = []
    for folder in (os.environ.get("OMNI_FONTS", ""), "/usr/share/fonts/truetype/dejavu"):
        for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono.ttf"):
            if folder and os.path.exists(f"{folder}/{name}"):
                found.append(f"{folder}/{name}")
        if found:
            break
    return found


FONTS = fonts()
loaded = {}


def font(rng, height):
    size = max(12, int(height / 8) * 8)
    k = rng.randrange(len(FONTS) + 1)
    if (k, size) not in loaded:
        loaded[k, size] = ImageFont.truetype(FONTS[k], size) if k < len(FONTS) else ImageFont.load_default(size)
    return loaded[k, size]


def shade(rng, colour):
    spread = 8 if colour in ("black", "white", "gray", "brown", "yellow", "orange") else 16
    return tuple(min(255, max(0, c + rng.randint(-spread, spread))) for c in rng.choice(PALETTE[colour]))


def turned(points, cx, cy, angle):
    c, s = math.cos(angle), math.sin(angle)
    return [(cx + x * c - y * s, cy + x * s + y * c) for x, y in points]


def figure(rng, kind, cx, cy, r):
    """A function that draws the figure within radius r of (cx, cy) with the fill given."""
    tilt = rng.uniform(-0.2, 0.2) if rng.random() < 0.4 else 0.0
    if kind == "circle":
        return lambda d, fill: d.ellipse((cx - r, cy - r, cx + r, cy + r), fill=fill)
    if kind == "heart":
        q = [t * 2 * math.pi / 48 for t in range(48)]
        points = [(r * math.sin(t) ** 3, -r * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 15) for t in q]
    elif kind == "square":
        a = r * 0.78
        points = [(-a, -a), (a, -a), (a, a), (-a, a)]
    elif kind == "rectangle":
        a, b = r * 0.94, r * rng.uniform(0.3, 0.45)
        points = [(-a, -b), (a, -b), (a, b), (-a, b)]
        tilt += math.pi / 2 if rng.random() < 0.5 else 0
    elif kind == "triangle":
        a = rng.uniform(0.75, 1.0) * r
        points = [(0, -r * 0.95), (a, r * 0.75), (-a, r * 0.75)]
        tilt += math.pi if rng.random() < 0.15 else 0
    elif kind == "star":
        inner = rng.uniform(0.38, 0.5)
        points = [((r if i % 2 == 0 else r * inner) * math.sin(i * math.pi / 5), -(r if i % 2 == 0 else r * inner) * math.cos(i * math.pi / 5)) for i in range(10)]
    elif kind == "cross":
        a, b = r * 0.95, r * rng.uniform(0.22, 0.34)
        points = [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)]
        tilt = 0.0
    else:
        f = font(rng, 2.3 * r)
        return lambda d, fill: d.text((cx, cy), kind, font=f, fill=fill, anchor="mm")
    p = turned(points, cx, cy, tilt)
    return lambda d, fill: d.polygon(p, fill=fill)


class Picture:
    """frames: uint8 [n, h, w, 3], label: uint8 [h / 32, w / 32, 2] (kind and colour + 1 of each cell, 0 nothing), objects [(kind, colour, x, y)], from left to right."""


def place(rng, W, H, count, digits=False):
    """Centres and radii that do not overlap."""
    side, out = min(W, H), []
    for _ in range(count):
        for attempt in range(60):
            most = (0.42 if count == 1 else 0.30 if count == 2 else 0.24 if count == 3 else 0.19 if count <= 5 else 0.16) * (1 if attempt < 30 else 0.75)
            r = side * rng.uniform(max(0.10, most * 0.5), most)
            if digits:
                r = max(r, side * 0.13)
            x, y = rng.uniform(r, W - r), rng.uniform(r, H - r)
            if all(math.hypot(x - a, y - b) > (r + c) * 1.12 for a, b, c in out):
                out.append((x, y, r))
                break
    return out


def background(rng):
    return rng.choices(["white", "black", "gray", "yellow", "blue", "green", "pink"], [12, 3, 1.5, 0.6, 0.8, 0.6, 0.6])[0]


def scene(rng, W, H, parts, objects):
    """A house, perhaps a tree and a sun, between grass and sky."""
    sky = rng.choice([(150, 200, 240), (120, 180, 230), (180, 215, 250)])
    ground = H * rng.uniform(0.6, 0.8)
    parts.append((0, "green", shade(rng, "green"), lambda d, fill: d.rectangle((0, ground, W, H), fill=fill)))
    spot = rng.random() < 0.5
    hx, hw, hh = W * (rng.uniform(0.24, 0.4) if spot else rng.uniform(0.6, 0.76)), W * rng.uniform(0.13, 0.2), H * rng.uniform(0.3, 0.42)
    top, base = ground + H * rng.uniform(0.05, 0.16) - hh, ground + H * rng.uniform(0.05, 0.16)
    body = rng.choice(["red", "red", "yellow", "blue", "white", "orange", "brown", "gray", "pink"])
    roof, door = rng.choice([c for c in ("red", "brown", "brown", "black", "gray") if c != body]), rng.choice([c for c in ("brown", "brown", "blue", "black", "white") if c != body])
    tone = lambda c: tuple(min(255, max(0, v + rng.randint(-14, 14))) for v in {"red": rng.choice([(190, 90, 70), (200, 70, 60)])}.get(c, PALETTE[c][0])) if rng.random() < 0.6 else shade(rng, c)
    roof_tone = (120, 50, 40) if roof == "brown" and rng.random() < 0.6 else tone(roof)
    parts.append(("house", body, tone(body), lambda d, fill: d.rectangle((hx - hw, top, hx + hw, base), fill=fill)))
    over, peak = hw * rng.uniform(1.0, 1.25), top - H * rng.uniform(0.16, 0.25)
    parts.append(("roof", roof, roof_tone, lambda d, fill: d.polygon([(hx - over, top), (hx + over, top), (hx, peak)], fill=fill)))
    dw, dh, dx = hw * rng.uniform(0.25, 0.36), hh * rng.uniform(0.45, 0.6), hx + hw * rng.uniform(-0.45, 0.45)
    parts.append(("door", door, tone(door), lambda d, fill: d.rectangle((dx - dw, base - dh, dx + dw, base), fill=fill)))
    objects.append(("house", body, hx, top))
    other = W * (rng.uniform(0.68, 0.86) if spot else rng.uniform(0.14, 0.32))
    if rng.random() < 0.4:
        tw, ty = W * rng.uniform(0.07, 0.11), ground - H * rng.uniform(0.12, 0.2)
        parts.append((0, "brown", shade(rng, "brown"), lambda d, fill: d.rectangle((other - tw * 0.25, ty, other + tw * 0.25, ground + H * 0.06), fill=fill)))
        parts.append(("tree", "green", (30, 110, 40), lambda d, fill: d.ellipse((other - tw, ty - tw * 1.3, other + tw, ty + tw * 0.7), fill=fill)))
        objects.append(("tree", "green", other, ty))
    if rng.random() < 0.65:
        sx, sy, sr = W * (rng.uniform(0.62, 0.9) if spot else rng.uniform(0.1, 0.38)), H * rng.uniform(0.14, 0.24), min(W, H) * rng.uniform(0.07, 0.13)
        parts.append(("sun", "yellow", rng.choice([(250, 220, 80), (255, 230, 60), (255, 210, 40)]), lambda d, fill: d.ellipse((sx - sr, sy - sr, sx + sr, sy + sr), fill=fill)))
        objects.append(("sun", "yellow", sx, sy))
    return sky, dict(roof=roof, door=door)


def picture(rng):
    p = Picture()
    W, H = rng.randint(140, 480), rng.randint(140, 480)
    if max(W, H) > 1.7 * min(W, H):
        W = H = min(W, H)
    h, w = smart_resize(H, W, *PIXELS)
    scale = math.sqrt(h * w * rng.choice([1, 2, 4]) / (W * H))
    W, H = round(W * scale), round(H * scale)
    parts, p.objects, p.details = [], [], {}
    kind = rng.random()
    if kind < 0.15:
        p.kind = "scene"
        back, p.details = scene(rng, W, H, parts, p.objects)
        p.background = "blue"
    else:
        p.background = background(rng)
        back = shade(rng, p.background)
        colours = [c for c in COLOURS if c != p.background and (c, p.background) not in
                   (("gray", "black"), ("yellow", "white"), ("white", "yellow"), ("white", "gray"), ("black", "gray"), ("pink", "white"), ("white", "pink"), ("blue", "black"), ("purple", "black"), ("brown", "black"))]
        if kind < 0.32:                         # a number
            p.kind = "number"
            number = str(rng.randint(0, 9) if rng.random() < 0.5 else rng.randint(10, 99) if rng.random() < 0.7 else rng.randint(100, 999))
            r = min(H * 0.42, W * (0.62 / len(number) if len(number) > 1 else 0.42)) * rng.uniform(0.5, 1.0)
            r = max(r, min(W, H) * 0.13)
            type_face, colour = font(rng, 2.3 * r), rng.choice(colours)
            wide = type_face.getlength(number)
            x, y = rng.uniform(min(W / 2, wide / 2 + 4), max(W / 2, W - wide / 2 - 4)), rng.uniform(min(H / 2, r), max(H / 2, H - r))
            fill, left = shade(rng, colour), x - wide / 2
            for c in number:
                step = type_face.getlength(c)
                parts.append((c, colour, fill, lambda d, fill, c=c, at=left + step / 2: d.text((at, y), c, font=type_face, fill=fill, anchor="mm")))
                left += step
            p.number, p.number_colour = number, colour
        else:
            p.kind = "figures"
            count = rng.choices(range(1, 7), [6, 5, 4, 3, 2, 1])[0]
            if count > 2 and rng.random() < 0.5:                    # several alike
                pool = [(rng.choice(FIGURES), rng.choice(colours)) for _ in range(rng.randint(1, 2))]
            else:
                pool = None
            with_digit = pool is None and rng.random() < 0.2
            for i, (x, y, r) in enumerate(place(rng, W, H, count, with_digit)):
                k, c = rng.choice(pool) if pool else (rng.choice(FIGURES), rng.choice(colours))
                if with_digit and i == 0:
                    k = str(rng.randint(0, 9))
                parts.append((k, c, shade(rng, c), figure(rng, k, x, y, r)))
                p.objects.append((k, c, x / W, y / H))
    image, label = Image.new("RGB", (W, H), back), Image.new("L", (w // 8, h // 8), 0)
    d = ImageDraw.Draw(image)
    marks = Image.new("L", (W, H), 0)
    dm = ImageDraw.Draw(marks)
    for i, (_, _, fill, paint) in enumerate(parts):
        paint(d, fill)
        paint(dm, i + 1)
    if rng.random() < 0.15:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(1, 6), (H, W, 1))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    if rng.random() < 0.2:
        b = io.BytesIO()
        image.save(b, "JPEG", quality=rng.randint(60, 95))
        image = Image.open(b)
    p.whole = image
    p.frames = np.asarray(image.resize((w, h), Image.BICUBIC) if (w, h) != (W, H) else image)[None]
    which = np.asarray(marks.resize(label.size, Image.NEAREST)).reshape(h // 32, 4, w // 32, 4).transpose(0, 2, 1, 3).reshape(h // 32, w // 32, 16)
    p.label = np.zeros((h // 32, w // 32, 2), np.uint8)
    most = np.zeros(which.shape[:2], int)
    for i, (k, c, _, _) in enumerate(parts):
        n = (which == i + 1).sum(-1)
        better = (n > most) & (n >= 2)
        most[better] = n[better]
        p.label[better] = (KINDS.index(k) + 1 if k else 0, COLOURS.index(c) + 1)
    p.objects.sort(key=lambda o: o[2])
    return p


def many(n, colour, kind):
    name = kind if n == 1 else MANY.get(kind, kind + "s")
    thing = f"{colour} {name}" if colour else name
    return article(thing) if n == 1 else f"{word(n)} {thing}"


def joined(things):
    return things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1]


def description(p):
    if p.kind == "number":
        return capital(f"the {'number' if len(p.number) > 1 else 'digit'} {p.number} in {p.number_colour}") + "."
    groups = {}
    for k, c, _, _ in (sorted(p.objects, key=lambda o: ["house", "tree", "sun"].index(o[0])) if p.kind == "scene" else p.objects):
        groups[c, k] = groups.get((c, k), 0) + 1
    return capital(joined([many(n, c, k) for (c, k), n in groups.items()])) + "."


COLOR = ["color", "color", "colour"]


def figure_questions(p, r):
    """(question, answer) pairs about a picture, any of which may be asked; the choice among them is the caller's."""
    color = r.choice(COLOR)
    out = [("describe", r.choice(SEE), description(p))]
    out.append(("background", f"What {color} is the background?", capital(p.background) + ".")) if p.kind != "scene" else None
    if p.kind == "number":
        out += [("number", q, p.number + ".") for q in r.sample(["What number is in the picture?", "Which number do you see?", "Read the number.", "What number is this?", "Which digits do you see?", "What does it say?"], 2)]
        if len(p.number) == 1:
            out += [("number", q, p.number + ".") for q in r.sample(["Which digit do you see?", "What digit is in the picture?", "What digit is this?"], 2)]
        out.append(("color", f"What {color} is the {r.choice(['number', 'digit' if len(p.number) == 1 else 'number'])}?", capital(p.number_colour) + "."))
        return out
    if p.kind == "scene":
        out += [("color", f"What {color} is the {part}?", capital(c) + ".") for part, c in [("house", p.objects_of("house")), ("roof", p.details["roof"]), ("door", p.details["door"]), ("grass", "green"), ("sky", "blue")]]
        for k in ("tree", "sun", "house"):
            out.append(("is there", f"Is there a {k}?", "Yes." if any(o[0] == k for o in p.objects) else "No."))
        return out
    n = len(p.objects)
    kinds = {}
    for k, c, _, _ in p.objects:
        kinds.setdefault(k, []).append(c)
    if not any(k.isdigit() for k in kinds):
        out.append(("how many", r.choice(["How many shapes are there?", "How many shapes do you see?", "How many things are in the picture?", "How many shapes are in the picture?"]), capital(word(n)) + "."))
    k = r.choice(list(kinds)) if r.random() < 0.75 else r.choice(FIGURES)
    if k.isdigit():
        out.append(("number", r.choice(["Which digit do you see?", "What digit is in the picture?", "What number is in the picture?", "Which number do you see?"]), k + "."))
        out.append(("color", f"What {color} is the digit?", capital(kinds[k][0]) + "."))
    else:
        name = MANY.get(k, k + "s")
        got = len(kinds.get(k, []))
        out.append(("how many", r.choice([f"How many {name} are there?", f"How many {name} do you see?", f"How many {name} are in the picture?"]), capital(word(got) if got else "none") + "."))
    for k, cs in kinds.items():
        if len(cs) == 1 and not k.isdigit():
            out.append(("color", f"What {color} is the {k}?", capital(cs[0]) + "."))
    for c in {o[1] for o in p.objects}:
        which = {o[0] for o in p.objects if o[1] == c}
        if len(which) == 1 and sum(o[1] == c for o in p.objects) == 1 and not min(which).isdigit():
            out.append(("shape", f"What is {c}?" if r.random() < 0.5 else f"Which shape is {c}?", f"The {min(which)}."))
    if n == 1 and not p.objects[0][0].isdigit():
        out.append(("shape", r.choice(["What shape is it?", "What shape is this?", "Which shape do you see?", "What shape is in the picture?"]), capital(article(p.objects[0][0])) + "."))
    if r.random() < 0.5:
        k, c = r.choice([o[:2] for o in p.objects]) if r.random() < 0.5 else (r.choice(FIGURES), r.choice(COLOURS))
    else:
        k, c = r.choice(p.objects)[0], r.choice(p.objects)[1]
    if not k.isdigit():
        out.append(("is there", f"Is there a {c} {k}?".replace("a orange", "an orange"), "Yes." if (k, c) in [o[:2] for o in p.objects] else "No."))
    if n == 2:
        (a, ca, xa, ya), (b, cb, xb, yb) = p.objects
        if abs(xa - xb) > 0.25:
            out.append(("where", "What is on the left?", capital(many(1, ca, a)) + "."))
            out.append(("where", "What is on the right?", capital(many(1, cb, b)) + "."))
        if abs(ya - yb) > 0.25:
            up, down = ((ca, a), (cb, b)) if ya < yb else ((cb, b), (ca, a))
            out.append(("where", "What is at the top?", capital(many(1, *up)) + "."))
            out.append(("where", "What is at the bottom?", capital(many(1, *down)) + "."))
    return out


Picture.objects_of = lambda self, kind: next(c for k, c, _, _ in self.objects if k == kind)


def questions(p, r):
    return [q for q in figure_questions(p, r) if q]


def all_questions():
    """The texts of the questions about pictures and videos that may be asked aloud."""
    out = list(SEE)
    for k in FIGURES:
        name = MANY.get(k, k + "s")
        out += [f"How many {name} are there?", f"How many {name} do you see?", f"What color is the {k}?"]
        out += [f"Is there a {c} {k}?".replace("a orange", "an orange") for c in COLOURS]
    out += [f"What color is the {k}?" for k in ("background", "house", "roof", "door", "number", "digit")] + [f"What is {c}?" for c in COLOURS]
    out += ["How many shapes are there?", "How many shapes do you see?", "What shape is it?", "What shape is this?", "Which digit do you see?", "What number is in the picture?", "Which number do you see?", "Read the number.",
            "What is on the left?", "What is on the right?", "What is at the top?", "What is at the bottom?", "Is there a tree?", "Is there a sun?", "Is there a house?"]
    out += ["Which way does it move?", "Which way does the square move?", "What moves?", "What happens in the video?"]
    return list(dict.fromkeys(out))


def video(rng):
    """Frames two a second: a square, or something else, that moves one way or stands still."""
    p = Picture()
    n = rng.choice([4, 4, 6, 6, 8])
    W, H = rng.randint(100, 400), rng.randint(100, 400)
    if max(W, H) > 1.7 * min(W, H):
        W = H = min(W, H)
    h, w = smart_resize(H, W, *VIDEO_PIXELS)
    p.kind, p.background = "video", background(rng)
    p.figure = rng.choice(["square", "square", "square", "circle", "triangle", "star"])
    p.colour = rng.choice([c for c in ("red", "green", "blue", "orange", "purple") + (("white", "yellow") if p.background == "black" else ("black",)) if c != p.background and not (p.background == "black" and c in ("blue", "purple"))])
    p.way = rng.choice(list(WAYS) * 3 + ["still"])
    back, fill, S = shade(rng, p.background), shade(rng, p.colour), rng.choice([1, 2])
    r = min(w, h) * rng.uniform(0.11, 0.22)
    dx, dy = WAYS.get(p.way, (0, 0))
    room = (w if dx else h) - 2 * r
    length = room * rng.uniform(0.45, 1.0)
    start = rng.uniform(0, room - length)
    along = [r + start + length * i / (n - 1) for i in range(n)]
    if dx < 0 or dy < 0:
        along.reverse()
    across = rng.uniform(r, (h if dx else w) - r)
    state = rng.getstate()
    frames = []
    for a in along if p.way != "still" else [along[0]] * n:
        image = Image.new("RGB", (w * S, h * S), back)
        rng.setstate(state)                     # the same figure in each frame
        x, y = (a, across) if dx else (across, a)
        figure(rng, p.figure, x * S, y * S, r * S)(ImageDraw.Draw(image), fill)
        frames.append(np.asarray(image.resize((w, h), Image.BICUBIC) if S > 1 else image))
    p.frames, p.objects = np.stack(frames), [(p.figure, p.colour, 0, 0)]
    p.label = np.zeros((h // 32, w // 32, 2), np.uint8)
    return p


def video_questions(p, r):
    to = {"left": "to the left", "right": "to the right", "up": "up", "down": "down"}
    thing = article(f"{p.colour} {p.figure}")
    way = "It does not move." if p.way == "still" else capital(to[p.way]) + "."
    out = [("way", r.choice([f"Which way does the {p.figure} move?", "Which way does it move?", f"Where does the {p.figure} go?", "In which direction does it move?", f"Which way is the {p.figure} moving?"]), way)] * 3
    out.append(("happens", r.choice(["What happens in the video?", "What do you see?", "What happens?", "Describe the video."]), capital(thing) + (f" moves {to[p.way]}." if p.way != "still" else " does not move.")))
    out.append(("moves", "What moves?", capital(thing) + ".") if p.way != "still" else ("color", f"What color is the {p.figure}?", capital(p.colour) + "."))
    out.append(("color", f"What {r.choice(COLOR)} is the {p.figure}?", capital(p.colour) + "."))
    return out


def patches(frames):
    """uint8 [n, h, w, 3] -> [n, h / 16 * w / 16, 768]: channel, row, column of each patch, 2 x 2 neighbours together."""
    n, h, w, _ = frames.shape
    x = frames.reshape(n, h // 32, 2, 16, w // 32, 2, 16, 3)
    return np.ascontiguousarray(x.transpose(0, 1, 4, 2, 5, 7, 3, 6)).reshape(n, h * w // 256, 768)
