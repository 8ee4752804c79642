"""What models/omni-tiny was trained to do, greedily, on pictures and sounds made here: the right answers are facts about them."""
import json, math, os, struct, wave
from harness import Case, ROOT

TRAINED = os.path.join(ROOT, "models", "omni-tiny")
MEDIA = os.path.join(ROOT, "models", "media")


class Answers(Case):
    def ask(self, *flags):
        return self.omni("run", "-m", TRAINED, "--greedy", "--max-tokens", 60, *flags)[0].strip()

    def picture(self, shapes, name="a.ppm", size=200):
        """A white square picture; shapes: (inside(x, y), colour)."""
        rows = bytearray(b"\xff" * (3 * size * size))
        for inside, colour in shapes:
            for y in range(size):
                for x in range(size):
                    if inside(x, y):
                        rows[3 * (y * size + x):3 * (y * size + x) + 3] = bytes(colour)
        return self.write(name, f"P6 {size} {size} 255\n".encode() + bytes(rows))

    def test_words(self):
        for question, answer in (("What is 7 plus 5?", "Seven plus five is twelve."), ("Count to six.", "One, two, three, four, five, six."), ("Spell window.", "W, I, N, D, O, W."),
                                 ("What is the day after Tuesday?", "Wednesday."), ("Repeat: the sky is blue", "The sky is blue."), ("What is in the picture?", "I do not see a picture.")):
            self.assertEqual(self.ask("-p", question), answer)
        self.assertIn("do not know", self.ask("-p", "What is the capital of France?"))

    def test_picture(self):
        circle = lambda x, y: (x - 60) ** 2 + (y - 60) ** 2 < 35 ** 2
        square = lambda x, y: 110 < x < 180 and 110 < y < 180
        f = self.picture([(circle, (220, 30, 30)), (square, (40, 80, 220))])
        self.assertEqual(self.ask("--image", f, "-p", "What is in the picture?"), "A red circle and a blue square.")
        self.assertEqual(self.ask("--image", f, "-p", "How many shapes are there?"), "Two.")
        self.assertEqual(self.ask("--image", f, "-p", "What color is the circle?"), "Red.")
        self.assertEqual(self.ask("--image", f, "-p", "Is there a green star?"), "No.")

    def test_a_question_asked_aloud_about_a_picture(self):
        self.assertEqual(self.ask("--image", f"{MEDIA}/picture.jpg", "--audio", f"{MEDIA}/question.ogg"), "A red house and a yellow sun.")
        self.assertEqual(self.ask("--audio", f"{MEDIA}/question.ogg", "-p", "Write down the words."), "what can you see in this picture")

    def test_video(self):
        frames = b""
        for i in range(4):
            at = 12 + 24 * i
            row = lambda y: b"".join(b"\x28\x50\xdc" if at <= x < at + 32 and 48 <= y < 80 else b"\xff\xff\xff" for x in range(128))
            frames += b"".join(row(y) for y in range(128))
        head = "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 128, 128, 3), }".ljust(117) + "\n"
        f = self.write("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + frames)
        self.assertEqual(self.ask("--video", f, "-p", "Which way does the square move?"), "To the right.")
        self.assertEqual(self.ask("--video", f, "-p", "What color is the square?"), "Blue.")

    def test_tones(self):
        for name, answer in (("up", "It rises."), ("down", "It falls.")):
            n, phase, x = 16000, 0.0, []
            for i in range(n):
                t = i / n if name == "up" else 1 - i / n
                phase += 2 * math.pi * 300 * 3 ** t / 16000
                x.append(int(6000 * min(1, i / 400, (n - i) / 400) * math.sin(phase)))
            with wave.open(self.path(name + ".wav"), "wb") as w:
                w.setnchannels(1)
                w.setsampwidth(2)
                w.setframerate(16000)
                w.writeframes(struct.pack(f"<{n}h", *x))
            self.assertEqual(self.ask("--audio", name + ".wav", "-p", "Does the tone rise or fall?"), answer)

    def test_it_hears_itself(self):
        self.omni("speak", "-m", TRAINED, "-p", "seven red horses", "--voice", "ethan", "--greedy", "-o", "a.wav")
        heard = self.ask("--audio", "a.wav", "-p", "Write down the words.").split()
        self.assertGreaterEqual(len({"seven", "red", "horse", "horses"} & set(heard)), 2, heard)
        self.assertEqual(self.ask("--audio", "a.wav", "-p", "Who is speaking?"), "Ethan.")

    def test_a_tool(self):
        tool = dict(type="function", function=dict(name="get_weather", description="Weather of a city",
                                                   parameters=dict(type="object", properties=dict(city=dict(type="string")), required=["city"])))
        f = self.write("tools.json", json.dumps([tool]))
        got = self.ask("--tools", f, "-p", "What is the weather in Paris?")
        self.assertIn("get_weather", got)
        self.assertIn("Paris", got)
