"""Tests of conversations: lines through a pipe, and a person at a terminal."""
import fcntl, json, os, pathlib, re, select, shutil, signal, struct, subprocess, termios, time, unittest.mock

import harness
from harness import Case, Terminal, THINKER, MMPROJ, TALKER, PICTURE, QUESTION, VIDEOS

RUN = ["run", "-m", THINKER]
ALL = RUN + ["--mmproj", MMPROJ, "--talker", TALKER]
ENDLESS = ["--ignore-eos", "-n", 4000]  # seconds of work, unless stopped


class Chat(Case):
    def json(self, *args, **how):
        """The answers of a run, parsed, and its standard error."""
        out, err = self.omni(*args, "--greedy", "-n", 3, "--json", **how)
        return [json.loads(line) for line in out.splitlines()], err

    def tokens(self, text, *media):
        return self.json(*(ALL if media else RUN), *media, "-p", text)[0][0]["prompt_tokens"]


class Conversation(Chat):
    def test_piped(self):
        out = self.omni(*RUN, "--greedy", "-n", 6, "--json", stdin="one\n\ntwo\n/reset\none\n/quit\nthree\n")[0]
        a = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(len(a), 3)
        self.assertEqual(a[0]["cached_tokens"], 0)
        # the second turn's prompt holds the first; all of it but the last token drawn had been read
        self.assertGreaterEqual(a[1]["cached_tokens"], a[0]["prompt_tokens"] + a[0]["answer_tokens"] - 1)
        self.assertEqual({k: a[2][k] for k in ("text", "prompt_tokens", "cached_tokens")}, {k: a[0][k] for k in ("text", "prompt_tokens", "cached_tokens")})

    def test_cached_turns_answer_as_whole_ones(self):
        a = [json.loads(line) for line in self.omni(*RUN, "--greedy", "-n", 6, "--json", stdin="one\ntwo\n")[0].splitlines()]
        whole = [{"role": "user", "content": "one"}, {"role": "assistant", "content": a[0]["text"]}, {"role": "user", "content": "two"}]
        b = json.loads(self.omni(*RUN, "--greedy", "-n", 6, "--json", "--messages", "-", stdin=json.dumps(whole))[0])
        if b["prompt_tokens"] == a[1]["prompt_tokens"]:  # the answer's text tokenizes to the tokens that were drawn
            self.assertEqual(b["text"], a[1]["text"])

    def test_media(self):
        out, err = self.omni(*ALL, "--greedy", "-n", 6, stdin=f"/image {PICTURE}\nx\n")
        alone = self.omni(*ALL, "--greedy", "-n", 6, "--image", PICTURE, "-p", "x")[0]
        self.assertEqual(out, alone)
        self.assertEqual(self.omni(*ALL, "--greedy", "-n", 6, "--image", PICTURE, stdin="x\n")[0], alone)
        self.assertEqual(self.omni(*ALL, "--greedy", "-n", 6, "--audio", QUESTION, stdin="\n")[0],
                         self.omni(*ALL, "--greedy", "-n", 6, "--audio", QUESTION, "-p", "")[0])

    def test_sound_files(self):
        self.omni(*ALL, "--greedy", "-n", 6, "--max-frames", 4, "-o", "a.wav", stdin="one\ntwo\nthree\n")
        self.assertEqual(sorted(os.listdir(self.folder.name)), ["a-2.wav", "a-3.wav", "a.wav"])
        for n in os.listdir(self.folder.name):
            self.wav(self.path(n))

    def test_errors_go_on(self):
        """What fails is said, the rest is answered, and the exit status tells."""
        out, err = self.omni(*ALL, "--greedy", "-n", 3, stdin="/image\nlost\n/voice nobody\nx\n", status=1)
        for part in ["which file?", "nobody", "not answered", "lost"]:
            self.assertIn(part, err)
        self.assertEqual(out, self.omni(*ALL, "--greedy", "-n", 3, "-p", "x")[0])
        self.omni(*RUN, "-n", 3, stdin="/voice Bob\nx\n", status=1)  # no talker
        out, err = self.omni(*RUN, "--greedy", "-c", 30, "-n", 3, stdin="x " * 100 + "\nx\n", status=1)
        self.assertEqual(err.count("context is 30"), 1, err)  # what does not fit is left out of what follows
        self.assertEqual(out, self.omni(*RUN, "--greedy", "-n", 3, "-p", "x")[0])
        lines = [f"/image {PICTURE}", "x " * 100, "x", f"/image {PICTURE}", "x"]  # the first picture is taken back, too
        out, err = self.omni(*ALL, "--greedy", "-c", 120, "-n", 3, "--json", stdin="\n".join(lines), status=1)
        self.assertEqual(err.count("context is 120"), 1, err)
        a = [json.loads(line)["prompt_tokens"] for line in out.splitlines()]
        self.assertEqual(len(a), 2)
        self.assertGreater(a[1], a[0] + 64)
        out, err = self.omni(*ALL, "--greedy", "-n", 3, stdin=f"/image {__file__}\none\nx\n", status=1)
        self.assertEqual(err.count("not an image"), 1, err)  # what cannot be read is left out as well
        self.assertEqual(out, self.omni(*ALL, "--greedy", "-n", 3, "-p", "x")[0])

    def test_no_answer_without_its_media(self):
        want = self.tokens("x")
        bad = [f"/image {f}" for f in ["no.png", "", "'x", "\"a.png", f"{PICTURE} no.png", self.folder.name + "/no", "~/no.png", "file:///no.png"]]
        bad += ["/audio no.wav", "/video no.mp4", f"/image {PICTURE}\n/audio no.wav"]  # nor with half of them
        a, err = self.json(*ALL, stdin="".join(f"{b}\nlost\nx\n/reset\n" for b in bad), status=1)
        self.assertEqual([r["prompt_tokens"] for r in a], [want] * len(bad))
        self.assertEqual(err.count("not answered"), len(bad))
        a, err = self.json(*ALL, stdin="/image no.png\n/reset\nx\n", status=1)  # what was asked for before is forgotten
        self.assertEqual([r["prompt_tokens"] for r in a], [want])
        a, err = self.json(*ALL, stdin="/image no.png\n", status=1)
        self.assertEqual(a, [])

    def test_only_our_commands_are_commands(self):
        texts = ["/usr/bin is what?", "/", "//", "/imagex y", "/imgae x", "/IMAGE x", "/help me please", "/quit smoking?", "/reset the clock", "/image/x",
                 " /quit", "\t/reset", "/exit.", "/voices", "/" + "x" * 500]
        a, err = self.json(*RUN, stdin="\n/reset\n".join(texts))
        b, _ = self.json(*RUN, stdin="\n/reset\n".join(f'"""{t}"""' for t in texts))
        self.assertEqual([r["prompt_tokens"] for r in a], [r["prompt_tokens"] for r in b])
        self.assertEqual(len(a), len(texts))
        self.assertEqual(a[0]["prompt_tokens"], self.tokens(texts[0]))
        self.assertEqual(err.count("\n"), len(texts) - 1, err)  # of the resets
        for end in ["/quit  ", "/exit\t", "/bye\r"]:
            self.assertEqual(self.json(*RUN, stdin=f"{end}\nx\n")[0], [], end)
        a, err = self.json(*RUN, stdin="one\n/reset\nx\none\n/clear\nx\n")
        self.assertEqual([a[1]["prompt_tokens"], a[3]["prompt_tokens"]], [self.tokens("x")] * 2)

    def test_media_without_a_message(self):
        """They are sent alone when the input ends."""
        alone = self.json(*ALL, "--image", PICTURE, "-p", "")[0][0]
        for flags, lines in [(["--image", PICTURE], ""), (["--image", PICTURE], "\n"), ([], f"/image {PICTURE}\n"), ([], f"/image {PICTURE}")]:
            a, err = self.json(*ALL, *flags, stdin=lines)
            self.assertEqual([(r["text"], r["prompt_tokens"]) for r in a], [(alone["text"], alone["prompt_tokens"])])
        self.assertEqual(self.json(*ALL, "--image", PICTURE, stdin="/quit\n")[0], [])
        self.assertEqual(self.json(*ALL, stdin="")[0], [])

    def test_names_of_files(self):
        """Quoted, escaped, dropped on a terminal, given as addresses, below ~, several of them."""
        want = self.tokens("x", "--image", PICTURE)
        twice = self.tokens("x", "--image", PICTURE, "--image", PICTURE)
        os.mkdir(self.path("d"))
        for name in ["a b.png", "it's.png", 'say "x".png', "back\\slash.png", "d/$x `y`.png", "ü 你.png", "50%.png", "#1&2;(3).png", "~"]:
            shutil.copy(PICTURE, self.path(name))
            quoted = "'" + name.replace("'", "'\\''") + "'"
            double = '"' + re.sub(r'(["\\$`])', r"\\\1", name) + '"'
            escaped = re.sub(r"([^\w./-])", r"\\\1", name)
            address = pathlib.Path(self.path(name)).as_uri()
            forms = [quoted, double, escaped, f"  {quoted} ", address, address.replace("file:///", "FILE://localhost/"), "'" + address + "'"]
            forms += [name, name + "  "] + (["~/" + quoted, "~/" + escaped] if name != "~" else [])
            lines = "".join(f"/image {f}\nx\n/reset\n" for f in forms)
            a, err = self.json(*ALL, stdin=lines, env={"HOME": self.folder.name})
            self.assertEqual([r["prompt_tokens"] for r in a], [want] * len(forms), (name, err))
        lines = "/image 'a b.png' it\\'s.png\nx\n/reset\n/image 'a b.png'\n/image \"it's.png\"\nx\n"
        self.assertEqual([r["prompt_tokens"] for r in self.json(*ALL, stdin=lines)[0]], [twice] * 2)
        self.assertIn("nobody's.png", self.json(*ALL, stdin="/image ~/nobody\\'s.png\n", env={"HOME": self.folder.name}, status=1)[1])

    def test_messages_of_several_lines(self):
        for lines, text in {"a\\\nb\n": "a\nb", "a\\\n\\\nb\n": "a\n\nb", "a\\\r\nb\r\n": "a\nb", "a\\": "a", "a\\\\\n": "a\\\\",
                            '"""a\nb"""\n': "a\nb", '"""\na\n\n /quit\nb\n"""\n': "a\n\n /quit\nb", '"""a"""\n': "a", ' """\n/reset\n"""  \n': "/reset",
                            '"""/quit"""\n': "/quit", '"""\na\\\nb\n"""': "a\\\nb", 'a """ b\n': 'a """ b', '"""doc""" is what?\n': '"""doc""" is what?'}.items():
            a, err = self.json(*RUN, stdin=lines)
            self.assertEqual(([r["prompt_tokens"] for r in a], err), ([self.tokens(text)], ""), lines)
        a, err = self.json(*RUN, stdin='x\n"""\nlost\n', status=1)
        self.assertEqual(len(a), 1)
        self.assertIn('"""', err)

    def test_one_stream_of_sound(self):
        """With -o - all answers are one sound with one header, which holds what each says alone."""
        flags = [*ALL, "--greedy", "-n", 6, "--max-frames", 4]
        out, err = self.omni(*flags, "-o", "-", stdin="one\n/reset\ntwo\n/reset\nthree\n", text=False)
        self.assertEqual(out.count(b"RIFF"), 1)
        parts = [self.wav_bytes(self.omni(*flags, "-o", "-", "-p", p, text=False)[0], True) for p in ["one", "two", "three"]]
        self.assertEqual(self.wav_bytes(out, True), sum(parts, ()))

    def interrupted(self, number):
        """A conversation whose first answer is stopped by a signal, and is followed by another message. The answer cannot end before the
        signal: its sound goes into a pipe that holds less than two frames of it and is not read. Returns the process and the answers."""
        p = self.start(*ALL, "--ignore-eos", "-n", 100, "--max-frames", 8, "--json", "-o", "-", stdin=subprocess.PIPE, bufsize=0)
        fcntl.fcntl(p.stdout, fcntl.F_SETPIPE_SZ, 4096)
        p.stdin.write(b"one\n")
        self.assertEqual(p.stdout.read(44)[:4], b"RIFF")
        self.assertEqual(len(p.stdout.read(2)), 2)
        p.send_signal(number)
        p.stdin.write(b"two\n")
        out, err = p.communicate(timeout=harness.LONG)
        return p, [json.loads(line) for line in err.splitlines()]

    def test_interrupt_stops_the_answer_only(self):
        p, a = self.interrupted(signal.SIGINT)
        self.assertEqual([r["finish"] for r in a], ["cancelled", "length"])
        self.assertGreater(a[1]["cached_tokens"], 0)
        self.assertEqual((a[1]["answer_tokens"], a[1]["frames"], p.returncode), (100, 8, 0))

    def test_termination_ends_the_program(self):
        for number in [signal.SIGTERM, signal.SIGHUP]:
            p, a = self.interrupted(number)
            self.assertEqual(([r["finish"] for r in a], p.returncode), (["cancelled"], 128 + number))

    def test_every_answer_is_flushed(self):
        """Who talks to omni through pipes sees an answer before the next message."""
        for how in [[], ["--json"]]:
            p = self.start(*RUN, "--greedy", "-n", 6, *how, stdin=subprocess.PIPE)
            for text in [b"one\n", b"two\n"]:
                p.stdin.write(text)
                p.stdin.flush()
                seen = b""
                while not seen.endswith(b"\n"):
                    self.assertTrue(select.select([p.stdout], [], [], harness.LONG)[0], "no answer")
                    seen += os.read(p.stdout.fileno(), 65536)
            out, err = p.communicate(timeout=harness.LONG)
            self.assertEqual((out, err.count(b"cut short: the answer after 6 tokens")), (b"", 0 if how else 2), err)

    def test_lost_output_ends_it(self):
        with open("/dev/full", "w") as full:
            p = self.start(*RUN, "-n", 4, stdin=subprocess.PIPE, stdout=full)
            out, err = p.communicate(b"one\ntwo\n", timeout=harness.LONG)
        self.assertEqual((p.returncode, err.decode().count("standard output")), (1, 1), err)


class Interactive(Chat):
    def test_session(self):
        t = Terminal(self, *ALL, "--greedy", "-n", 6)
        t.expect("/help for commands")
        t.prompt()
        t.send("/vice EHAN\x1b[D\x1b[D\x1b[DT\x01\x1b[C\x1b[Co\x05\r")  # letters put in at two places
        t.expect("voice: ethan")
        t.prompt()
        t.send("\x1b[A\r")  # the line before
        t.expect("voice: ethan")
        t.prompt()
        t.send(f"/image {PICTURE}\r")
        t.expect("goes with the next message")
        t.send("what is it\r")
        t.prompt()
        t.send("/voice ETHAN\r")
        t.expect("voice: ethan")
        t.send("/reset\r")
        t.expect("a new conversation")
        t.send("/help\r")
        t.expect("/quit, /exit, /bye")
        t.send("/qiut\r")
        t.expect("did you mean /quit")
        t.send("/quit\r")
        self.assertEqual(t.wait(), 0)

    def test_other_scripts(self):
        for locale in ["C.UTF-8", "POSIX"]:
            with unittest.mock.patch.dict(os.environ, LC_ALL=locale):
                t = Terminal(self, *RUN, "--greedy", "-n", 6, "--json")
            t.prompt()
            t.send("/你好é\U0001f600x\x7f\x7f\r")  # the last two taken back
            tokens = int(t.expect(r'"prompt_tokens": (\d+)')[1])
            self.assertEqual(tokens, self.tokens("/你好é"))
            t.prompt()
            t.send("\x04")
            self.assertEqual(t.wait(), 0)

    def test_end_of_input(self):
        t = Terminal(self, *RUN)
        t.prompt()
        t.send("\x04")
        self.assertEqual(t.wait(), 0)

    def test_interrupts(self):
        t = Terminal(self, *RUN, *ENDLESS, "-c", 4000)
        t.prompt()
        t.send("half a line")
        t.expect("half a line")
        for _ in range(3):  # drops the line, and another, empty one
            t.send("\x03")
            t.expect("\n")
            t.prompt()
        t.send("go on\r")
        t.expect("(?s)go on\r\n.{20}")
        t.send("\x03")  # stops the answer
        t.prompt()
        t.send("/quit\r")
        self.assertEqual(t.wait(), 0)
