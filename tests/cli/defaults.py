"""Where values come from that no flag gives: folders of models, the environment, the configuration file, files of text, standard input."""
import json, os, shutil

from harness import Case, THINKER, MMPROJ, TALKER, TINY, PICTURE, QUESTION, VIDEOS

ASK = ["-p", "x", "--greedy", "-n", 6]


class Folders(Case):
    def setUp(self):
        super().setUp()
        self.expected = self.omni("run", "-m", THINKER, *ASK)[0]
        self.seen = self.omni("run", "-m", THINKER, "--mmproj", MMPROJ, "--image", PICTURE, *ASK)[0]

    def link(self, folder, **files):
        os.makedirs(self.path(folder), exist_ok=True)
        for name, target in files.items():
            os.symlink(target, self.path(os.path.join(folder, name.replace("_", "-") + ".gguf")))
        return folder

    def test_folder(self):
        self.assertEqual(self.omni("run", "-m", TINY, *ASK)[0], self.expected)
        self.assertEqual(self.omni("run", "-m", TINY + "/", "--image", PICTURE, *ASK)[0], self.seen)
        self.omni("run", "-m", TINY, *ASK, "-o", "a.wav")
        self.omni("speak", "-m", TINY, "-p", "x", "--greedy", "--max-frames", 3, "-o", "b.wav")
        self.assertTrue(self.wav(self.path("a.wav")) and self.wav(self.path("b.wav")))
        self.assertEqual(self.omni("tokenize", "-m", TINY, "--ids", "Hi")[0], self.omni("tokenize", "-m", THINKER, "--ids", "Hi")[0])
        self.omni("imatrix", "-m", TINY, "--image", PICTURE, "-o", "i.gguf")

    def test_only_what_is_needed_is_taken(self):
        """The other files need not even be good: one that is not wanted is not opened."""
        self.link("m", thinker=THINKER, mmproj=QUESTION, talker=QUESTION)
        self.assertEqual(self.omni("run", "-m", "m", *ASK)[0], self.expected)
        self.fails("run", "-m", "m", "--image", PICTURE, *ASK, say="mmproj.gguf")
        self.fails("run", "-m", "m", "-o", "a.wav", *ASK, say="talker.gguf")

    def test_cache_of_hugging_face(self):
        self.link("models--o--n/snapshots/0123abc", qwen=THINKER, mmproj_qwen=MMPROJ)
        self.assertEqual(self.omni("run", "-m", "models--o--n", "--image", PICTURE, *ASK)[0], self.seen)
        self.assertEqual(self.omni("run", "-m", "models--o--n/snapshots/0123abc", *ASK)[0], self.expected)
        os.makedirs(self.path("models--o--n/snapshots/4567def"))
        self.fails("run", "-m", "models--o--n", *ASK, status=2, say="models--o--n")
        os.makedirs(self.path("models--o--n/refs"))
        self.write("models--o--n/refs/main", "0123abc")
        self.assertEqual(self.omni("run", "-m", "models--o--n", *ASK)[0], self.expected)

    def test_choice(self):
        self.link("m", a=THINKER, b=THINKER, mmproj_a=MMPROJ, mmproj_b=MMPROJ, imatrix=THINKER)
        self.fails("run", "-m", "m", *ASK, status=2, say=["m: which of a.gguf, b.gguf?", "--model"])
        os.remove(self.path("m/b.gguf"))
        self.assertEqual(self.omni("run", "-m", "m", *ASK)[0], self.expected)
        self.fails("run", "-m", "m", "--image", PICTURE, *ASK, status=2, say=["which of mmproj-a.gguf, mmproj-b.gguf?", "--mmproj"])
        self.assertEqual(self.omni("run", "-m", "m", "--mmproj", MMPROJ, "--image", PICTURE, *ASK)[0], self.seen)
        os.mkdir(self.path("empty"))
        self.fails("run", "-m", "empty", *ASK, status=2, say="there is no model's .gguf file")
        self.write("empty/config.json", "{}")
        self.fails("run", "-m", "empty", *ASK, status=2, say="omni convert")
        self.fails("speak", "-m", "m", "-p", "x", "-o", "a.wav", status=2, say="--talker")

    def test_parts_of_a_file(self):
        """Of a file in parts the first is opened, which names the others."""
        os.makedirs(self.path("m"))
        for i in (1, 2, 3):
            self.write(f"m/big-0000{i}-of-00003.gguf", "")
        self.fails("run", "-m", "m", *ASK, say="big-00001-of-00003.gguf")

    def test_environment(self):
        env = {"OMNI_MODEL": TINY}
        self.assertEqual(self.omni("run", *ASK, env=env)[0], self.expected)
        self.assertEqual(self.omni("run", "--image", PICTURE, *ASK, env=env)[0], self.seen)
        self.omni("tokenize", "x", env=env)
        self.omni("run", "-m", "none.gguf", *ASK, status=1, env=env)  # the flag comes first
        self.fails("run", *ASK, status=2, say=["--model", "OMNI_MODEL"])
        self.fails("bench", status=2, say="what should be measured", env=env)


class Config(Case):
    def setUp(self):
        super().setUp()
        os.makedirs(self.path("c/omni"))
        self.env = {"XDG_CONFIG_HOME": self.path("c"), "HOME": self.folder.name}

    def config(self, text):
        self.write("c/omni/config", text)

    def run_json(self, *args, **how):
        return json.loads(self.omni("run", "-p", "x", "--json", *args, env=self.env, **how)[0])

    def test_values(self):
        self.config(f"\ufeff# mine\n\nmodel = {TINY}\n  greedy=true\nmax-tokens = 5  \nquantised-is-no-flag-here = 1\n".replace("quantised-is-no-flag-here = 1", "allow-requantize = yes"))
        r = self.run_json()
        self.assertEqual(r["answer_tokens"], 5)
        self.assertEqual(self.run_json("-n", 3)["answer_tokens"], 3)  # the command line comes first
        self.omni("tokenize", "x", env=self.env)
        self.config(f"model = ~/m\n[run]\nmax-tokens = 4\ngreedy = on\n[ speak ]\nmax-frames = 2\n")
        os.symlink(TINY, self.path("m"))
        self.assertEqual(self.run_json()["answer_tokens"], 4)
        self.omni("speak", "-p", "x", "-o", "a.wav", "--greedy", env=self.env)
        self.assertEqual(len(self.wav(self.path("a.wav"))), len(self.speech(2)))

    def speech(self, frames):
        self.omni("speak", "-m", TINY, "-p", "x", "-o", "b.wav", "--greedy", "--max-frames", frames)
        return self.wav(self.path("b.wav"))

    def test_home(self):
        os.makedirs(self.path(".config/omni"))
        self.write(".config/omni/config", f"model = {TINY}\nmax-tokens = 2\n")
        out = self.omni("run", "-p", "x", "--json", env={"HOME": self.folder.name, "XDG_CONFIG_HOME": ""})[0]
        self.assertEqual(json.loads(out)["answer_tokens"], 2)

    def test_files_of_another_model(self):
        """A model from elsewhere does not get this one's encoders."""
        self.config("model = no.gguf\nmmproj = no-mmproj.gguf\ntalker = no-talker.gguf\n")
        self.assertEqual(self.run_json("-m", THINKER, "-n", 2)["answer_tokens"], 2)
        self.env["OMNI_MODEL"] = TINY
        self.assertEqual(self.run_json("--image", PICTURE, "-n", 2)["answer_tokens"], 2)

    def test_mistakes(self):
        for text, say in {"temp = hot": ["config:1: --temp takes a number", '"hot"'], "\n\ntmep = 1": "config:3: no command has a flag --tmep", "threads": "config:1: must be",
                          "[rnu]\n": 'config:1: there is no command "rnu"', "use-audio-in-video = maybe": "config:1: --use-audio-in-video takes true or false", "a\0b": "NUL"}.items():
            self.config(text)
            self.fails("run", "-m", THINKER, *ASK, status=2, say=say, env=self.env)
        self.omni("run", "--help", env=self.env)
        self.omni("--version", env=self.env)


class Texts(Case):
    RUN = ["run", "-m", THINKER, "--greedy", "-n", 6]

    def test_file(self):
        for text in ["Grüße\nzwei Zeilen", "", " x ", "a\n\n"]:
            expected = self.omni(*self.RUN, "-p", text)[0]
            for form in [text + "\n", text + "\r\n", "\ufeff" + text + "\n"]:
                self.write("t.txt", form)
                self.assertEqual(self.omni(*self.RUN, "-f", "t.txt")[0], expected, form)
                self.assertEqual(self.omni(*self.RUN, "--file", "-", stdin=form)[0], expected, form)
        self.write("t.txt", "Hallo\nWelt\n")
        ids = self.omni("tokenize", "-m", THINKER, "--ids", "Hallo\nWelt")[0]
        self.assertEqual(self.omni("tokenize", "-m", THINKER, "--ids", "-f", "t.txt")[0], ids)
        self.assertEqual(self.omni("tokenize", "-m", THINKER, "--ids", "-f", "-", stdin="Hallo\nWelt")[0], ids)
        speak = ["speak", "-m", TINY, "--greedy", "--max-frames", 4]
        self.omni(*speak, "-p", "Hallo\nWelt", "-o", "a.wav")
        self.omni(*speak, "-f", "t.txt", "-o", "b.wav")
        self.omni(*speak, "-f", "-", "-o", "c.wav", stdin="Hallo\nWelt\n")
        self.assertEqual(self.wav(self.path("a.wav")), self.wav(self.path("b.wav")))
        self.assertEqual(self.wav(self.path("a.wav")), self.wav(self.path("c.wav")))

    def test_file_mistakes(self):
        for args in [self.RUN, ["speak", "-m", TINY, "-o", "a.wav"], ["tokenize", "-m", THINKER]]:
            self.fails(*args, "-f", "none.txt", say=["none.txt", "No such file"])
            self.fails(*args, "-f", self.write("w.txt", "x".encode("utf-16")), say=["w.txt", "UTF-16"])
            self.fails(*args, "-f", self.write("n.txt", b"a\0b"), say=["n.txt", "NUL"])
            self.fails(*args, "-f", ".", say=[".: Is a directory"])
        self.fails(*self.RUN, "-p", "x", "-f", "w.txt", status=2, say="--file")
        self.fails("tokenize", "-m", THINKER, "x", "-f", "w.txt", status=2, say="not both")
        self.assertNotIn("a.wav", os.listdir(self.folder.name))

    def test_escapes(self):
        typed, meant = r"a\nb\t\"c\" \\ \x41 \q \x0 \x00 \u00e9 \\n", 'a\nb\t"c" \\ A \\q \\x0 \\x00 \\u00e9 \\n'
        expected = self.omni(*self.RUN, "-p", meant)[0]
        self.assertEqual(self.omni(*self.RUN, "-e", "-p", typed)[0], expected)
        self.assertNotEqual(self.omni(*self.RUN, "-p", typed)[0], expected)
        self.write("t.txt", typed)
        self.assertEqual(self.omni(*self.RUN, "-e", "-f", "t.txt")[0], self.omni(*self.RUN, "-p", typed)[0])  # files hold what they mean
        self.assertEqual(self.omni(*self.RUN, "-e", "-p", "x", "-sys", r"a\nb")[0], self.omni(*self.RUN, "-p", "x", "-sys", "a\nb")[0])
        whole = self.omni("run", "-m", THINKER, "-p", "x", "-n", 60, "-s", 1, "--temp", 1)[0]
        self.assertEqual(self.omni("run", "-m", THINKER, "-p", "x", "-n", 60, "-s", 1, "--temp", 1, "-e", "-r", r"\n")[0].rstrip("\n"), whole.split("\n")[0])

    def test_standard_input_as_media(self):
        full = ["run", "-m", TINY, "--greedy", "-n", 6, "-p", "x"]
        for flag, file in {"--image": PICTURE, "--audio": QUESTION}.items():
            with open(file, "rb") as f:
                self.assertEqual(self.omni(*full, flag, "-", stdin=f.read())[0], self.omni(*full, flag, file)[0])
        sound = f"{VIDEOS}/sound.mp4"  # both of its tracks
        with open(sound, "rb") as f:
            self.assertEqual(self.omni(*full, "--use-audio-in-video", "--video", "-", stdin=f.read())[0], self.omni(*full, "--use-audio-in-video", "--video", sound)[0])
        for flag in ["--image", "--audio", "--video"]:
            self.fails(*full, flag, "-", say="standard input: ")
        for twice in [["--image", "-", "--audio", "-"], ["--image", "-", "--tools", "-"]]:
            self.fails(*full, *twice, status=2, say="read once")
        self.fails("run", "-m", TINY, "-f", "-", "--image", "-", status=2, say="read once")
        self.fails("run", "-m", TINY, "--messages", "-", "--tools", "-", status=2, say="read once")
        self.fails("run", "-m", TINY, "--image", "-", status=2, say="a conversation reads standard input")
        self.fails("imatrix", "-m", TINY, "-f", "-", "--image", "-", status=2, say="read once")


class Values(Case):
    """As llama.cpp takes them."""

    def test_no_limits(self):
        ask = ["run", "-m", THINKER, "-p", "x", "--greedy", "--json"]
        self.assertEqual(json.loads(self.omni(*ask, "-n", "-1", "-c", 64)[0])["text"], json.loads(self.omni(*ask, "-c", 64)[0])["text"])
        d = json.loads(self.omni("info", THINKER, "--json")[0])
        longest = next(v for k, v in walk(d) if k.endswith("context_length"))
        out, err = self.omni("run", "-m", THINKER, "-c", 0, "-p", "x " * (longest + 10), status=1)
        self.assertIn(f"context is {longest}", err)

    def test_seed(self):
        ask = ["run", "-m", TINY, "-p", "x", "-n", 24, "--temp", 5, "--top-k", 0, "--top-p", 1, "-o", "a.wav", "--max-frames", 6, "--json"]
        first, second = (json.loads(self.omni(*ask)[0]) for _ in range(2))
        self.assertNotEqual(first["seed"], second["seed"])
        self.assertNotEqual(first["text"], second["text"])
        self.assertNotEqual(json.loads(self.omni(*ask, "--seed", "-1")[0])["seed"], first["seed"])
        self.omni(*ask)
        again = json.loads(self.omni(*ask, "-s", first["seed"])[0])
        sound = self.wav(self.path("a.wav"))
        self.assertEqual((again["text"], again["seed"]), (first["text"], first["seed"]))
        err = self.omni(*ask[:-1], "-s", first["seed"], "-v")[1]
        self.assertIn(f"seed {first['seed']},", err)
        self.assertEqual(self.wav(self.path("a.wav")), sound)

    def test_marked_json(self):
        text = json.dumps([{"role": "user", "content": "x"}])
        ask = ["run", "-m", THINKER, "--greedy", "-n", 6, "--messages", "-"]
        self.assertEqual(self.omni(*ask, stdin="\ufeff" + text)[0], self.omni(*ask, stdin=text)[0])
        for kind in ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]:
            self.fails(*ask, stdin=text.encode(kind), say=["standard input", "UTF-16"])
        tools = json.dumps([{"type": "function", "function": {"name": "f"}}])
        self.write("t.json", "\ufeff" + tools)
        self.omni("run", "-m", THINKER, "-p", "x", "-n", 2, "--tools", "t.json")

    def test_no_local_files(self):
        text = json.dumps([{"role": "user", "content": [{"type": "image", "path": PICTURE}]}])
        ask = ["run", "-m", TINY, "-n", 2, "--messages", "-"]
        self.omni(*ask, stdin=text)
        self.fails(*ask, "--no-local-files", stdin=text, say=["messages[0].content[0]", "data: URL"])

    def test_cut_short(self):
        ask = ["run", "-m", TINY, "-p", "x", "--greedy", "--ignore-eos"]
        for args, say in {("-n", 5): "cut short: the answer after 5 tokens (--max-tokens)", ("-n", 99, "-c", 30): "the context is full (--ctx-size)",
                          ("-n", 30, "-o", "a.wav", "--max-frames", 2): "the speech after 2 frames (--max-frames)"}.items():
            err = self.omni(*ask, *args)[1]
            self.assertEqual((err.count("\n"), say in err), (1, True), err)
            self.assertEqual(self.omni(*ask, *args, "--json")[1], "")
        self.assertEqual(self.omni("speak", "-m", TINY, "-p", "x" * 40, "--greedy", "-o", "a.wav", "--max-frames", 2)[1].count("cut short: the speech after 2 frames"), 1)
        whole = self.omni("run", "-m", THINKER, "-p", "x", "--greedy", "-n", 30)[0]
        self.assertEqual(self.omni("run", "-m", THINKER, "-p", "x", "--greedy", "-n", 30, "--stop", whole[8:12])[1], "")  # ended, not cut

    def test_timings(self):
        out, err = self.omni("run", "-m", TINY, "-p", "x", "-n", 6, "--ignore-eos", "-v", "-o", "a.wav", "--image", PICTURE, "-s", 7)
        for part in ["seed 7", "load time", "media time", "prompt eval time", "eval time", "6 tokens", "tokens per second", "first text", "first sound", "real-time factor"]:
            self.assertIn(part, err)
        self.assertEqual(out, self.omni("run", "-m", TINY, "-p", "x", "-n", 6, "--ignore-eos", "--image", PICTURE, "-s", 7)[0])


def walk(d):
    for k, v in d.items() if isinstance(d, dict) else enumerate(d):
        yield str(k), v
        if isinstance(v, (dict, list)):
            yield from walk(v)
