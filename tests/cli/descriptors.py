"""What the system denies: closed descriptors, files larger than allowed."""
import itertools, os, resource, signal, time

import harness
from harness import Case, THINKER, TALKER, TINY


def close(*descriptors):
    def now():
        for d in descriptors:
            os.close(d)
    return now


def file_limit(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


class Descriptors(Case):
    def test_closed(self):
        """Every combination of closed descriptors: files hold what they should and nothing that was printed."""
        speak = ["speak", "-m", TINY, "-p", "x", "--greedy", "--max-frames", 3, "-o", "a.wav"]
        run = ["run", "-m", TINY, "-p", "x", "--greedy", "-n", 12, "--max-frames", 3, "--ignore-eos", "-o", "b.wav"]
        self.omni(*speak)
        expected = self.wav(self.path("a.wav"))
        for n in (1, 2, 3):
            for which in itertools.combinations(range(3), n):
                for args in [speak, run, ["quantize", THINKER, "q.gguf", "q8_0"], ["tokenize", "-m", THINKER, "x"], ["info", THINKER]]:
                    p = self.start(*args, stdin=None, preexec_fn=close(*which))
                    p.communicate(timeout=harness.LONG)
                    prints = args is not speak
                    self.assertEqual(p.returncode, 1 if 1 in which and prints else 0, (which, args))
                    if args is speak:
                        self.assertEqual(self.wav(self.path("a.wav")), expected, which)
                    if os.path.exists(self.path("b.wav")):
                        self.wav(self.path("b.wav"))
                        os.remove(self.path("b.wav"))
        self.omni("info", "q.gguf")
        self.assertEqual([n for n in os.listdir(self.folder.name) if ".part-" in n], [])

    def test_conversation_without_input(self):
        p = self.start("run", "-m", THINKER, "-n", 3, stdin=None, preexec_fn=close(0))
        out, err = p.communicate(timeout=harness.LONG)
        self.assertEqual(out, b"")


class FileSize(Case):
    """ulimit -f: an error that says so, and nothing left behind, from every command that writes."""

    def test_limits(self):
        limit = {"preexec_fn": file_limit(20000)}
        long = "one two three four five six seven eight nine ten " * 20
        self.write("corpus.txt", long * 20)
        writers = [["run", "-m", TINY, "-p", long, "--greedy", "-n", 60, "--ignore-eos", "-o", "a.wav"], ["speak", "-m", TINY, "-p", long, "--greedy", "-o", "a.wav"],
                   ["run", "-m", THINKER, "-p", long, "-n", 40, "--ignore-eos", "--trace", "t.safetensors"], ["quantize", THINKER, "q.gguf", "f32"],
                   ["synth", "s.gguf", "--parts", "mmproj"], ["imatrix", "-m", THINKER, "-f", "corpus.txt", "-o", "i.gguf"],
                   ["bench", "--synthetic", "q8_0", "--layers", 1, "--parts", "thinker", "--scratch", "."]]
        for args in writers:
            out, err = self.omni(*args, status=1, **limit)
            self.assertIn("File too large", err, args)
            left = os.listdir(self.folder.name)
            if "a.wav" in left:  # as much of the speech as went in, under a header that says so
                self.assertGreater(len(self.wav(self.path("a.wav"))), 4000)
                os.remove(self.path("a.wav"))
            self.assertEqual(set(left) - {"a.wav"}, {"corpus.txt"}, args)
        for name in ["a.mp3", "a.opus", "a.flac", "a.aac", "a.ulaw"]:  # as much of the speech as went in can be heard
            out, err = self.omni("speak", "-m", TINY, "-p", long, "--greedy", "--max-frames", 60, "-o", name, status=1, preexec_fn=file_limit(12000))
            self.assertIn("File too large", err, name)
            if name != "a.ulaw" and name in os.listdir(self.folder.name):
                heard = self.tool("ffmpeg", "-v", "fatal", "-i", name, "-f", "s16le", "-")
                self.assertGreater(len(heard), 4000, name)
            os.path.exists(self.path(name)) and os.remove(self.path(name))
            self.assertEqual(os.listdir(self.folder.name), ["corpus.txt"])
        for name in ["a.wav", "a.mp3", "a.pcm", "a.ulaw"]:  # nothing went in: what was there before stays
            self.write(name, "older")
            err = self.omni("speak", "-m", TINY, "-p", long, "--greedy", "--max-frames", 60, "-o", name, status=1, preexec_fn=file_limit(100))[1]
            self.assertIn(f"{name}: cannot write", err)
            with open(self.path(name)) as f:
                self.assertEqual(f.read(), "older", name)
        self.assertEqual(len(os.listdir(self.folder.name)), 5)


class Stopped(Case):
    """A signal at any moment of a command: its status is the shells' 128 and the signal's number, and no part file is left."""

    def test_signals(self):
        self.write("corpus.txt", "one two three four five six seven eight nine ten " * 4000)
        commands = [["quantize", "big.gguf", "q.gguf", "q4_k_m", "-t", 1], ["imatrix", "-m", THINKER, "-f", "corpus.txt", "-o", "i.gguf"],
                    ["synth", "s.gguf", "--layers", 1, "-t", 1], ["run", "-m", TINY, "-p", "x", "--ignore-eos", "-n", 4000, "-o", "a.wav"],
                    ["speak", "-m", TINY, "-p", "x " * 400, "--max-frames", 4000, "-o", "b.wav"],
                    ["bench", "--synthetic", "q8_0", "--layers", 1, "--parts", "thinker", "--scratch", "."], ["tokenize", "-m", THINKER, "-f", "corpus.txt"]]
        self.omni("synth", "big.gguf", "--parts", "mmproj", "--type", "f16")
        for args in commands:
            for number in (signal.SIGINT, signal.SIGTERM):
                for wait in (0.005, 0.15, 0.4):
                    p = self.start(*args)
                    time.sleep(wait)
                    p.send_signal(number)
                    p.communicate(timeout=harness.LONG)
                    self.assertIn(p.returncode, (128 + number, -number, 0), args)  # -number: killed, for which a shell says 128 + number too
                    self.assertEqual([n for n in os.listdir(self.folder.name) if ".part-" in n or n.startswith("omni-")], [], (args, number, wait))
