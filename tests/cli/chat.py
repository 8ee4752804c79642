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

    def test_the_conversation_is_no_file(self):
        """What would read the lines of the conversation is refused, also where a file has that name; the conversation goes on."""
        self.write("-", "")
        for command in ("image", "audio", "video"):
            for path in ("-", "/dev/stdin", "/proc/self/fd/0"):
                out, err = self.omni(*ALL, "--greedy", "-n", 3, stdin=f"/{command} {path}\nlost\nx\n", status=1)
                self.assertIn(f"omni: {path}: the conversation reads standard input", err)
                self.assertEqual(out, self.omni(*ALL, "--greedy", "-n", 3, "-p", "x")[0])
        self.fails(*ALL, "--image", "/dev/stdin", stdin="x\n", status=2, say="a conversation reads standard input")
        self.fails(*ALL, "--image", "/dev/stdin", "--audio", "-", "-p", "x", stdin="x\n", status=2, say="read once")

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

    def test_undo_and_regen(self):
        def ask(*lines, status=0):
            return [(r["prompt_tokens"], r["text"]) for r in self.json(*RUN, stdin="".join(f"{l}\n" for l in lines), status=status)[0]]
        one, two = ask("one", "two")
        self.assertEqual(ask("one", "x y z", "/undo", "two"), [one, ask("one", "x y z")[1], two])
        self.assertEqual(ask("lost", "/undo", "one")[1], one)
        self.assertEqual(ask("one", "/regen", "two"), [one, one, two])  # --greedy: the same again
        self.assertEqual(ask("/undo", "one", status=1), [one])
        self.assertEqual(ask("/regen", "one", status=1), [one])
        a = self.omni(*RUN, "--temp", 5, "--top-p", 1, "-n", 20, "--json", stdin="one\n/regen\n")[0].splitlines()
        self.assertNotEqual(*(json.loads(line)["text"] for line in a))

    def test_a_full_context(self):
        """With --context-shift the oldest messages go, and what is left is answered as if it were all; without, the message is an error."""
        lines = [f"message {i} " + "word " * 20 for i in range(6)]
        flags = [*RUN, "-c", 200, "--system", "You are short."]
        a, err = self.json(*flags, "--context-shift", stdin="\n".join(lines))
        self.assertEqual(len(a), 6)
        self.assertRegex(err, r"the context of 200 tokens is full: the oldest \d messages are forgotten\n")
        self.assertLessEqual(max(r["prompt_tokens"] + 3 for r in a), 200)
        for kept in range(1, 5):  # the last answer is one to the last messages alone
            messages = [{"role": "system", "content": "You are short."}]
            for i in range(6 - kept, 6):
                messages += [{"role": "user", "content": lines[i].rstrip()}, {"role": "assistant", "content": a[i]["text"]}]
            b = json.loads(self.omni(*RUN, "--greedy", "-n", 3, "--json", "--messages", "-", stdin=json.dumps(messages[:-1]))[0])
            if abs(b["prompt_tokens"] - a[5]["prompt_tokens"]) <= 3:
                break
        else:
            self.fail("no number of last messages fits")
        self.assertGreater(kept, 1)
        _, err = self.json(*flags, stdin="\n".join(lines), status=1)
        self.assertIn("context is 200", err)
        a, err = self.json(*flags, "--context-shift", stdin=f"{lines[0]}\n{'word ' * 300}\nx\n", status=1)  # nothing goes for what cannot fit
        self.assertIn("context is 200", err)
        self.assertNotIn("forgotten", err)
        self.assertGreater(a[1]["prompt_tokens"], a[0]["prompt_tokens"])

    def test_one_stream_of_sound(self):
        """With -o - all answers are one sound with one header, which holds what each says alone."""
        flags = [*ALL, "--greedy", "-n", 6, "--max-frames", 4]
        out, err = self.omni(*flags, "-o", "-", stdin="one\n/reset\ntwo\n/reset\nthree\n", text=False)
        self.assertEqual(out.count(b"RIFF"), 1)
        parts = [self.wav_bytes(self.omni(*flags, "-o", "-", "-p", p, text=False)[0], True) for p in ["one", "two", "three"]]
        self.assertEqual(self.wav_bytes(out, True), sum(parts, ()))

    def interrupted(self, number):
        """A conversation whose first answer is stopped by a signal, and is followed by another message. The answer cannot end before the
        signal: its sound goes into a pipe that holds less than two frames of it and is not read. Greedy: drawn speech may end at once.
        Returns the process and the answers."""
        p = self.start(*ALL, "--greedy", "--ignore-eos", "-n", 100, "--max-frames", 8, "--json", "-o", "-", stdin=subprocess.PIPE, bufsize=0)
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
        self.assertEqual((a[1]["answer_tokens"], p.returncode), (100, 0))
        self.assertLessEqual(a[1]["frames"], 8)  # how many depends on where the first answer was stopped

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


    def test_a_full_context(self):
        t = Terminal(self, *RUN, "--greedy", "-n", 3, "-c", 100)
        for i in range(3):
            t.prompt()
            t.send("word " * 30 + "\r")
            if i > 0:
                t.expect("Forget the oldest messages\\? \\[Y/n\\] ")
                t.send("n\r" if i == 1 else "y\r")
                t.expect("the message is left out" if i == 1 else "the oldest 2 messages are forgotten")
        t.prompt()

    def test_interrupted_while_the_prompt_is_read(self):
        """Only the message goes, not the conversation. The slowest kernels, so that there is something to interrupt."""
        t = Terminal(self, *RUN, "--greedy", "-n", 3, "--json", "-t", 1, OMNI_CPU="generic")
        t.prompt()
        t.send("\x1b[200~" + "x " * 3900 + "\x1b[201~\r")
        t.expect("reading")
        t.send("\x03")
        t.expect("the message is left out")
        t.prompt()
        t.send("x\r")
        self.assertEqual(int(t.expect(r'"prompt_tokens": (\d+)')[1]), self.tokens("x"))


class Editing(Chat):
    """The line editor. What was sent is read from the history that it keeps."""

    def typed(self, *inputs, **env):
        """The messages that come of these inputs, each followed by Enter."""
        t = Terminal(self, *RUN, "--greedy", "-n", 1, **env)
        t.prompt()
        for text in inputs:
            t.send(text)
            t.quiet(0.02)
            t.send("\r")
            t.expect("\r\n(?s:.*)\r\n")
            t.prompt()
        t.send("\x04")
        self.assertEqual(t.wait(), 0)
        return self.history()

    def history(self, path=".local/state/omni/history"):
        with open(self.path(path), newline="") as f:
            return [re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], line) for line in f.read().split("\n")[:-1]]

    def test_unknown_keys_leave_nothing(self):
        unknown = ["\x1b[5~", "\x1b[6~", "\x1b[15~", "\x1b[2~", "\x1bOP", "\x1b[[A", "\x1b[[E", "\x1b[24;5~", "\x1b[1;2P", "\x1b[Z", "\x1bOj", "\x1b[E",
                   "\x1b[I", "\x1b[O", "\x1b[<0;10;10M", "\x1b[<0;10;10m", "\x1b[M !!", "\x1b[M\xff\xff\xff".encode("latin-1"), "\x1b[32;10;10M",
                   "\x1b[?1;2c", "\x1b[3;5R", "\x1b[0n", "\x1b[?2026;2$y", "\x1b]11;rgb:0000/0000/0000\x07", "\x1b]11;rgb:0/0/0\x1b\\", "\x1bP1$r0m\x1b\\",
                   "\x1b_G;OK\x1b\\", "\x1b^x\x1b\\", "\x1bXx\x1b\\", "\x1bx", "\x1bé", "\x1b1", "\x1b[27;5;9~", "\x1b[97;5u", "\x1b[23^",
                   "\x1b[23$", "\x1b[11@", "\x1b[" + "1;" * 3000 + "x", "\x1b]" + "x" * 100000 + "\x07", "\x1b[99999999999999999999~", "\x1b[ q", "\x1b[201~",
                   b"\xff", b"\xc3", b"\xe4\xbd", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\xc2\x9b", "\x00", "\x1d", "\x11", "\x13", "\x16", "\x1e"]
        whole = b"".join((u if isinstance(u, bytes) else u.encode()) + b"x" for u in unknown)
        self.assertEqual(self.typed(b"a" + whole), ["a" + "x" * len(unknown)])

    def test_broken_off_sequences(self):
        """One that does not end is over after a moment; a control character ends it and is a key itself."""
        t = Terminal(self, *RUN, "--greedy", "-n", 1)
        t.prompt()
        for broken in ["\x1b", "\x1b[", "\x1b[1;5", "\x1bO", "\x1b]0;abc", "\x1bP", "\x1bPabc", "\x1b[M!", "\x1b[7$", b"\xe4\xbd"]:
            t.send(broken)
            time.sleep(0.25)
            t.send("y")
        t.send("\x1b]52;c;aGk\r")
        t.expect("\r\n(?s:.*)\r\n")
        t.prompt()
        t.send("a\x1b[1;\x08b\r")
        t.expect("\r\n(?s:.*)\r\n")
        t.prompt()
        self.assertEqual(self.history(), ["y" * 10, "b"])

    def test_keys(self):
        """The same key as different terminals send it; and what it does."""
        keys = {
            "Xabc def": ["\x1b[H", "\x1bOH", "\x1b[1~", "\x1b[7~", "\x1b[7$", "\x1b[7^", "\x1b[1;5H", "\x01"],
            "abc defX": ["\x01\x1b[F", "\x01\x1bOF", "\x01\x1b[4~", "\x01\x1b[8~", "\x01\x05"],
            "abc Xdef": ["\x1b[1;5D", "\x1b[1;3D", "\x1bOd", "\x1bb", "\x1b[D" * 3, "\x1bOD" * 3, "\x02" * 3],
            "abcX def": ["\x01\x1b[1;5C", "\x01\x1b[1;3C", "\x01\x1bOc", "\x01\x1bf", "\x01" + "\x1b[C" * 3, "\x01" + "\x1bOC" * 3, "\x01" + "\x06" * 3],
            "Xbc def": ["\x01\x1b[3~", "\x01\x04"],
            "abc X": ["\x1b\x7f", "\x17", "\x1b[1;5D\x1b[3;5~", "\x1bb\x1bd", "\x1bb\x0b", "\x08\x7f\x08"],
            "X": ["\x15", "\x01\x0b"],
            "abc deXf": ["\x1b[D"], "abc dfeX": ["\x14"], "abc\nX def": ["\x1bb\x02\x1b\r"],
        }
        inputs = [("abc def" + k + "X", want) for want, ks in keys.items() for k in ks]
        got = self.typed(*(i for i, _ in inputs))
        wanted = [w for i, (_, w) in enumerate(inputs) if i == 0 or w != inputs[i - 1][1]]  # the same twice is one entry
        self.assertEqual(got, wanted)

    def test_pastes(self):
        def paste(text):
            return f"\x1b[200~{text}\x1b[201~"
        self.assertEqual(self.typed(paste("one\rtwo\r\n\tthree\nfour") + "!", "a" + paste("b\x1b[31mc\x07\x00\x03d") + "e", paste("/quit\nx"),
                                    paste("你好\n" * 2000), paste("x" * 70000), paste("#define A \\\n  1"), paste("\x1b[200~y"), b"\x1b[200~\xff\x1b[201~z"),
                         ["one\ntwo\n\tthree\nfour!", "ab[31mcde", "/quit\nx", ("你好\n" * 2000)[:-1], "#define A \\\n  1", "[200~y", "\ufffdz"])

    def test_paste_is_one_message(self):
        t = Terminal(self, *RUN, "--greedy", "-n", 3, "--json")
        t.expect("\x1b\\[\\?2004h")
        t.send("\x1b[200~one\rtwo\x1b[201~\r")
        t.expect("\x1b\\[\\?2004l")  # off again while it answers
        self.assertEqual(int(t.expect(r'"prompt_tokens": (\d+)')[1]), self.tokens("one\ntwo"))

    def test_several_lines(self):
        t = Terminal(self, *RUN, "--greedy", "-n", 3, "--json")
        for text, want in {"one\\\rtwo\r": "one\ntwo", '"""one\r\rtwo"""\r': "one\n\ntwo", "one\x1b\rtwo\r": "one\ntwo", "a\\\\\r": "a\\\\",
                           '"""\r/quit\r"""\r': "/quit", "one\\\rtwo\x1b[AX\r": "oneX\ntwo"}.items():
            t.prompt()
            t.send(text)
            self.assertEqual(int(t.expect(r'"prompt_tokens": (\d+)')[1]), self.tokens(want), text)
            t.prompt()
            t.send("/reset\r")
            t.expect("a new conversation")

    def test_marks_wide_letters_and_tabs(self):
        self.assertEqual(self.typed("cafe\u0301\x7fX", "\U0001f468\u200d\U0001f469\u200d\U0001f467!\x02\x7fY", "한국\x02\x7fZ", "a\tb\x02\x02\x7fc", "\tx", "e\x01\u0301"),
                         ["cafX", "Y!", "Z국", "c\tb", "\tx", "\u0301e"])
        t = Terminal(self, *RUN)
        t.prompt()
        t.quiet()
        t.send("cafe\u0301 abc\x01Z")  # nothing of it is lost when it is drawn again
        self.assertIn("Zcafe\u0301 abc", t.quiet())

    def test_resizing_draws_once(self):
        text = "the quick brown fox jumps over the lazy dog"
        t = Terminal(self, *RUN)
        t.resize(20, 30)
        t.prompt()
        t.send(text)
        t.expect("dog")
        t.quiet()
        for rows, columns in [(20, 20), (20, 80), (5, 40)]:
            t.resize(rows, columns)
            seen = t.quiet()
            self.assertEqual(seen.count("> the quick"), 1, seen)
            self.assertIn("\x1b[J", seen)
        t.send("\r")

    def test_completion(self):
        for name in ["it's me.png", "item.txt", "other (1).png"]:
            open(self.path(name), "w").close()
        os.mkdir(self.path("dir"))
        shutil.copy(PICTURE, self.path("dir/a b.png"))
        t = Terminal(self, *ALL)
        t.prompt()
        t.send("/im\td\ta\t\r")
        t.expect("dir/a b.png: goes with")
        t.prompt()
        t.send("/image 'd\ta\t\r")
        t.expect("dir/a b.png: goes with")
        t.prompt()
        t.send("/image ~/oth\t\r")
        t.expect("/other \\(1\\).png: goes with")
        t.prompt()
        t.send("/image it\t\t")
        t.expect("it\\\\'s\\\\ me.png +item.txt")
        t.send("\\'\t\r")
        t.expect("it's me.png: goes with")
        self.assertEqual(self.history()[:3], ["/image dir/a\\ b.png", "/image 'dir/a b.png'", "/image ~/other\\ \\(1\\).png"])

    def test_output_in_a_pipe(self):
        """The terminal is edited on wherever the answer goes."""
        t = Terminal(self, *RUN, "--greedy", "-n", 6, stdout="out")
        t.prompt()
        t.send("xyz\x1b[D\x1b[D\x1b[D\x1b[3~\x0b\x1b[200~x\x1b[201~\r")
        t.prompt()
        t.send("\x04")
        self.assertEqual(t.wait(), 0)
        with open(self.path("out")) as f:
            self.assertEqual(f.read(), self.omni(*RUN, "--greedy", "-n", 6, "-p", "x")[0])

    def test_plain_terminal(self):
        t = Terminal(self, *RUN, "--greedy", "-n", 3, "--json", TERM="dumb")
        t.expect("> ")
        t.send("one\n")
        self.assertEqual(int(t.expect(r'"prompt_tokens": (\d+)')[1]), self.tokens("one"))
        t.expect("> ")
        t.send("\x04")
        self.assertEqual(t.wait(), 0)
        self.assertNotIn("\x1b", t.seen)

    def test_signals_put_the_terminal_back(self):
        for number in [signal.SIGTERM, signal.SIGHUP]:
            t = Terminal(self, *RUN)
            t.prompt()
            os.kill(t.pid, number)
            t.expect("\x1b\\[\\?2004l")
            self.assertEqual(t.wait(), -number)
            self.assertTrue(termios.tcgetattr(t.fd)[3] & termios.ICANON)
        t = Terminal(self, *RUN)
        t.prompt()
        t.send("abc")
        t.expect("abc")
        os.kill(t.pid, signal.SIGINT)  # as Ctrl+C: drops the line
        t.prompt()
        os.kill(t.pid, signal.SIGCONT)
        t.quiet()
        t.send("\x04")
        self.assertEqual(t.wait(), 0)
        self.assertTrue(termios.tcgetattr(t.fd)[3] & termios.ICANON)

    def test_history(self):
        """Kept between runs, for the owner alone, bounded; entries of several lines are whole; none without a terminal or with --no-history."""
        path = ".local/state/omni/history"
        t = Terminal(self, *RUN, "-n", 1, "--no-history")
        t.prompt()
        t.send("/voice x\r\x04")
        t.wait()
        self.omni(*RUN, "-n", 1, stdin="x\n", env={"HOME": self.folder.name})
        self.assertEqual(os.listdir(self.folder.name), [])
        self.assertEqual(self.typed("one\x1b\rt\\wo", "/voice a", "/voice a", "/voice b"), ["one\nt\\wo", "/voice a", "/voice b"])
        self.assertEqual([os.stat(self.path(p)).st_mode & 0o777 for p in [path, ".local/state/omni"]], [0o600, 0o700])
        t = Terminal(self, *RUN, "-n", 1)
        t.prompt()
        t.send("draft\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[AX\r")  # two rows of the oldest
        t.expect("\r\n(?s:.*)\r\n")
        t.prompt()
        t.send("/voice draft\x1b[A\x1b[A\x1b[A\x1b[B\x1b[B\x1b[B\x1b[B\r")
        t.expect("\r\n(?s:.*)\r\n")
        t.prompt()
        t.send("\x04")
        t.wait()
        self.assertEqual(self.history()[3:], ["oneX\nt\\wo", "/voice draft"])
        os.chmod(self.path(path), 0o644)
        with open(self.path(path), "w") as f:
            f.writelines(f"/voice {i}\n" for i in range(2500))
        self.typed("/voice end")
        self.assertEqual((len(self.history()), self.history()[0], self.history()[-1]), (1001, "/voice 1500", "/voice end"))
        self.assertEqual(os.stat(self.path(path)).st_mode & 0o777, 0o600)
        os.mkdir(self.path("state"))
        self.typed("/voice elsewhere", XDG_STATE_HOME=self.path("state"))
        self.assertEqual(self.history("state/omni/history"), ["/voice elsewhere"])
        os.unlink(self.path("state/omni/history"))
        os.mkfifo(self.path("state/omni/history"))  # is not waited for
        t = Terminal(self, *RUN, XDG_STATE_HOME=self.path("state"))
        t.expect("the history is not kept")
        t.prompt()
