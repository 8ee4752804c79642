"""Text that others wrote on a terminal: shown, never obeyed; in a pipe as it is."""
import os, re, subprocess

import harness
from harness import Case, Terminal, THINKER, TALKER, TINY

OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\r(?!\r*\n)")  # a terminal's own line ends are \r\n
NASTY = "\x1b[2J\x9b31m\u202e\x07\x7f"
SHOWN = "\\u001b[2J\\u009b31m\\u202e\\u0007\\u007f"


class OutsideText(Case):
    def terminal(self, *args, **how):
        t = Terminal(self, *args, **how)
        t.wait()
        while t.read(0):
            pass
        return t.seen.replace("\r\n", "\n")

    def test_answers(self):
        """Random tokens have controls among them; in a pipe they come as they are."""
        ask = ["run", "-m", THINKER, "-p", "x", "--temp", 100, "--top-k", 0, "--top-p", 1, "-n", 400, "--ignore-eos"]
        found = 0
        for seed in range(6):
            raw = subprocess.run([harness.OMNI, *map(str, [*ask, "-s", seed])], capture_output=True).stdout.decode()
            controls = OBEYED.findall(raw)
            found += len(controls)
            seen = self.terminal(*ask, "-s", seed)
            self.assertIsNone(OBEYED.search(seen), seed)
            for c in controls:
                self.assertIn(f"\\u{ord(c):04x}", seen)
        self.assertGreater(found, 0)

    def test_file_names(self):
        name = f"a{NASTY}.gguf"
        for args in [["info", name], ["run", "-m", name, "-p", "x"], ["run", "-m", THINKER, "-f", name], ["run", "-m", THINKER, "-p", "x", "--image", name],
                     ["tokenize", "-m", THINKER, "-f", name], ["convert", name, "-o", "x"], ["quantize", name, "o.gguf", "q8_0"], [name], ["run", name], ["run", f"--{name}"]]:
            seen = self.terminal(*args)
            self.assertRegex(seen, r"a\S+\[2J.*\.gguf")
            self.assertIsNone(OBEYED.search(seen), args)
        self.assertIn(f"a{SHOWN}.gguf", self.terminal(name))
        self.assertIn(f"a{NASTY}.gguf", self.omni(name, status=2)[1])  # a pipe gets it as it is
        seen = self.terminal(b"a\x9b31m\xff")
        self.assertIn("a\\x9b31m\\xff", seen)

    def test_written_files(self):
        seen = self.terminal("quantize", THINKER, f"a{NASTY}.gguf", "q8_0")
        self.assertIn(f"a{SHOWN}.gguf  ", seen)
        self.assertIsNone(OBEYED.search(seen))

    def altered(self, source, old, new):
        """A copy of a file with one string in it replaced, of the same length."""
        with open(source, "rb") as f:
            data = f.read()
        new = new.encode()[:len(old)].ljust(len(old), b"z")
        self.assertIn(old, data)
        return self.write("altered.gguf", data.replace(old, new))

    def test_voices(self):
        talker = self.altered(TALKER, b"chelsie", "\x1b[2J\u202e")
        args = ["run", "-m", THINKER, "--talker", talker, "-p", "x", "--voice", "nobody"]
        seen = self.terminal(*args)
        self.assertIn("[2J\\u202e", seen)
        self.assertIsNone(OBEYED.search(seen))

    def test_metadata(self):
        model = self.altered(THINKER, b"general.name", "gen\x1b]0;name")
        for args in [["info", model], ["info", model, "--json"]]:
            self.assertIsNone(OBEYED.search(self.terminal(*args)), args)

    def test_tokens(self):
        seen = self.terminal("tokenize", "-m", THINKER, NASTY)
        self.assertIsNone(OBEYED.search(seen))

    def test_errors_alone_on_a_terminal(self):
        seen = self.terminal(f"a{NASTY}", stdout="out.txt")
        self.assertIn(f"a{SHOWN}", seen)
