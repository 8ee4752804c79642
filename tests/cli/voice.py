"""The trained voices of models/omni-tiny: speech ends by itself, its length follows the text, and each voice has its pitch. Whether words are
understood needs a recogniser: training/evaluate.py."""
import json, os, struct, wave
from harness import Case, ROOT

TRAINED = os.path.join(ROOT, "models", "omni-tiny")
RATE = 24000


class Voice(Case):
    def say(self, text, voice):
        """(answer of --json, samples)"""
        r = json.loads(self.omni("speak", "-m", TRAINED, "-p", text, "--voice", voice, "--greedy", "--max-frames", 200, "--json", "-o", "a.wav")[0])
        with wave.open(self.path("a.wav")) as w:
            self.assertEqual((w.getframerate(), w.getnchannels()), (RATE, 1))
            n = w.getnframes()
            return r, struct.unpack(f"<{n}h", w.readframes(n))

    def pitch(self, x):
        """Median pitch in Hz of the louder half of a sound: the lag at which it is most like itself, every 50 ms."""
        x = [sum(x[i:i + 4]) / 4 for i in range(0, len(x) - 4, 4)]
        rate, found = RATE // 4, []
        for at in range(0, len(x) - 600, rate // 20):
            part = x[at:at + 600]
            energy = sum(s * s for s in part[:480])
            best = max(range(20, 101), key=lambda lag: sum(a * b for a, b in zip(part[:480], part[lag:lag + 480])))
            found.append((energy, rate / best))
        loud = sorted(f for _, f in sorted(found)[len(found) // 2:])
        return loud[len(loud) // 2]

    def test_length_follows_the_text(self):
        short, x = self.say("Yes.", "aiden")
        long, y = self.say("The picture shows three white squares and one black star.", "aiden")
        self.assertFalse(short["speech_cut"] or long["speech_cut"])
        self.assertTrue(0.3 < len(x) / RATE < 1.5, len(x) / RATE)
        self.assertTrue(2.5 < len(y) / RATE < 6, len(y) / RATE)
        for sound in (x, y):
            self.assertTrue(3000 < max(map(abs, sound)) < 32767)

    def test_voices_have_their_pitch(self):
        text = "The sky is blue and the grass is green."
        chelsie, ethan, aiden = (self.pitch(self.say(text, v)[1]) for v in ("chelsie", "ethan", "aiden"))
        self.assertTrue(150 < chelsie < 260 and 70 < ethan < 150 and 70 < aiden < 180, (chelsie, ethan, aiden))
        self.assertGreater(chelsie, 1.2 * max(ethan, aiden))
