#!/usr/bin/env python3
"""Tests of the command line on the tiny model that ships with the repository. usage: run.py OMNI [unittest's arguments]"""
import fcntl, json, math, os, re, resource, select, shutil, signal, struct, subprocess, sys, threading, time, unittest, unittest.mock

import answers, constrained, defaults, descriptors, harness, message_options, outside_text, pages, reach, voice, writing  # by their names as arguments: run.py OMNI pages
from chat import Conversation, Editing, Interactive
from harness import Case, Terminal, TINY, THINKER, MMPROJ, TALKER, PICTURE, QUESTION, VIDEOS

RUN = ["run", "-m", THINKER]
ALL = RUN + ["--mmproj", MMPROJ, "--talker", TALKER]
COMMANDS = ["run", "speak", "serve", "convert", "bench", "imatrix", "quantize", "split", "merge", "synth", "info", "tokenize"]
ENDLESS = ["--ignore-eos", "-n", 4000]  # seconds of work, unless stopped; of speech with --greedy alone: random speech may end at once


class Mistakes(Case):
    def test_commands(self):
        out, err = self.omni(status=2)
        self.assertEqual(out, "")
        for c in COMMANDS:
            self.assertIn(f"\n  {c} ", err)
        self.assertEqual(self.omni("--help")[0], err)
        self.assertRegex(self.omni("--version")[0], r"^omni \d+\.\d+\.\d+\n$")
        self.fails("rnu", status=2, say="did you mean run?")
        self.fails("frobnicate", status=2, say="see omni --help")

    def test_help_names_every_flag(self):
        for c in COMMANDS:
            out, err = self.omni(c, "--help")
            self.assertEqual(err, "")
            self.assertTrue(out.startswith(f"usage: omni {c}"), out)
            flags = re.findall(r"^  (?:-\w+, )?(--[\w-]+)", out, re.M)
            self.assertIn("--help", flags)
            self.assertEqual(out, self.omni(c, "-h")[0])
            self.assertEqual(self.omni("help", c)[0], out)
            for f in flags:
                if f != "--help" and len(f) > 5:  # a letter too many
                    self.fails(c, f + "q", status=2, say=f"did you mean {f}?")

    def test_unknown_flag(self):
        self.fails(*RUN, "--zzzzzzzzzzzzz", status=2, say=["unknown flag --zzzzzzzzzzzzz", "see omni run --help"])
        self.fails(*RUN, "--temperature", "1", status=2, say="did you mean --temp?")
        self.fails(*RUN, "--sys", "1", status=2, say="did you mean --system?")
        self.fails(*RUN, "-z", "-p", "x", status=2, say="unknown flag -z")
        self.fails(*RUN, "--color", status=2, say="see omni run --help")  # not --poll, which is as far as any word
        self.fails(*RUN, "--tmep", "1", status=2, say="did you mean --temp?")

    def test_values(self):
        for flag in ["-m", "--talker", "-p", "-o", "--temp", "--seed", "--image", "--stop", "--fps"]:
            self.fails("run", flag, status=2, say="needs a value")
        for flag, values in {"--temp": ["", "x", "-1", "nan", "1e9", "1x"], "--top-k": ["-1", "1.5", "99999999999999999999", "0x"], "--top-p": ["1.1", "-0.1"],
                             "--min-p": ["2"], "--repeat-penalty": ["0", "inf"], "--presence-penalty": ["101", "nan"],
                             "--frequency-penalty": ["-101", "x"], "--logprobs": ["-1", "21", "1.5"], "--seed": ["-2", "1e3"], "-n": ["0", "-5"], "--max-frames": ["0"], "-c": ["-1"],
                             "-t": ["0", "513", "two"], "--cpu-strict": ["2", "-1", "yes"], "--poll": ["-1", "101", ""], "--fps": ["0", "nan", "241"]}.items():
            for value in values:
                self.fails(*RUN, "-p", "x", flag, value, status=2, say=["takes a", f'not "{value}"'])
        for value in ["", "5", "5+", "5=1", "+1", "-5+1", "5+inf", "5-nan", "5-1x", "5--1", "x+1", "5 +1", "99999999999+1", "5+1e99"]:
            self.fails(*RUN, "-p", "x", f"--logit-bias={value}", status=2, say=["--logit-bias takes ID(+|-)BIAS", f'not "{value}"'])
        self.fails(*RUN, "-p", "x", "-l", "99999999-1", say=["logit bias of token 99999999", "the vocabulary has"])
        self.fails(*RUN, "-p", "x", "--logprobs", "3", status=2, say="--json")
        self.fails(*RUN, "--greedy=1", status=2, say="takes no value")
        self.fails(*RUN, "-p", "x", "more", status=2, say='unexpected argument "more"')
        self.fails(*RUN, "-p", "x", "--stop", "", say="stop string is empty")

    def test_sampling(self):
        ask = lambda *flags: json.loads(self.omni(*RUN, "-p", "Hello", "--json", "--greedy", "-n", "12", "--ignore-eos", *flags)[0])
        plain = ask("--logprobs", "3")
        content = plain["logprobs"]["content"]
        self.assertEqual(len(content), 12)
        for c in content:
            top = c["top_logprobs"]
            self.assertEqual({k: c[k] for k in ("token", "id", "logprob", "bytes")}, top[0])  # greedy: the likeliest
            self.assertEqual([t["logprob"] for t in top], sorted((t["logprob"] for t in top), reverse=True))
            self.assertLess(sum(math.exp(t["logprob"]) for t in top), 1)
            self.assertEqual(bytes(c["bytes"]).decode(errors="replace"), c["token"])
        self.assertEqual(b"".join(bytes(c["bytes"]) for c in content).decode(errors="replace"), plain["text"])
        self.assertNotIn("logprobs", ask())
        self.assertEqual(ask("--logprobs", "0")["logprobs"]["content"][0]["top_logprobs"], [])
        first = content[0]["id"]
        ids = lambda *flags: [c["id"] for c in ask("--logprobs", "0", *flags)["logprobs"]["content"]]
        self.assertEqual(ids("-l", f"{first}-inf")[0], content[0]["top_logprobs"][1]["id"])
        self.assertEqual(ids("-l", f"{first}-100", f"--logit-bias={content[0]['top_logprobs'][1]['id']}-inf")[0], content[0]["top_logprobs"][2]["id"])
        self.assertEqual(ids("-l", "7+99.5"), [7] * 12)
        for flag in "--presence-penalty", "--frequency-penalty":  # beyond every difference of logits: no token comes twice
            self.assertEqual(len(set(ids(flag, "100"))), 12)
            self.assertEqual(set(ids(flag, "-100")), {first})

    def test_missing(self):
        self.fails("run", "-p", "x", status=2, say="--model")
        self.fails(*RUN, "-p", "x", "-o", "a.wav", status=2, say="--talker")
        self.fails(*RUN, "-p", "x", "--ignore-eos", status=2, say="--max-tokens")
        self.fails(*RUN, "-p", "x", "--messages", "m.json", status=2, say="--messages is the whole conversation")
        self.fails("speak", status=2, say="--model")
        self.fails("speak", "--temp", "1", status=2, say="unknown flag --temp")  # what would have no effect is not taken
        self.fails("speak", "-m", THINKER, status=2, say="--talker")
        self.fails("speak", "-m", THINKER, "--talker", TALKER, status=2, say="-p TEXT")
        self.fails("speak", "-m", THINKER, "--talker", TALKER, "-p", "x", status=2, say="-o OUT")
        self.fails("convert", status=2, say="which checkpoint?")
        self.fails("convert", "x", status=2, say="-o OUT_DIR")
        self.fails("convert", "x", "-o", "y", "--parts", "thinker,foo", status=2, say="foo")
        self.fails("info", status=2, say="which file?")
        self.fails("synth", status=2, say="which file")
        self.fails("tokenize", "x", status=2, say="--model")
        self.fails("tokenize", "-m", THINKER, status=2, say="which text?")

    def test_missing_files(self):
        none = "No such file or directory"
        self.fails("run", "-m", "no.gguf", "-p", "x", say=["no.gguf", none])
        self.fails(*RUN, "--mmproj", "no.gguf", "-p", "x", say=["no.gguf", none])
        self.fails(*RUN, "--talker", "no.gguf", "-p", "x", say=["no.gguf", none])
        for flag in ["--image", "--audio", "--video", "--messages", "--tools"]:
            self.fails(*ALL, *([] if flag == "--messages" else ["-p", "x"]), flag, "no.file", say=["no.file", none])
        self.fails("info", "no.gguf", say=["no.gguf", none])
        self.fails("tokenize", "-m", "no.gguf", "x", say=["no.gguf", none])
        self.fails("convert", "nodir", "-o", "out", say=["nodir/config.json", none])
        self.assertEqual(os.listdir(self.folder.name), [])

    def test_wrong_files(self):
        self.fails("run", "-m", TALKER, "-p", "x", say="thinker")
        self.fails(*RUN, "--talker", THINKER, "-p", "x", say="talker")
        self.fails(*RUN, "--mmproj", TALKER, "-p", "x", say="audio encoder")
        self.fails("run", "-m", PICTURE, "-p", "x", say=PICTURE)
        self.fails(*ALL, "-p", "x", "--image", QUESTION, say=QUESTION)
        self.fails(*ALL, "-p", "x", "--audio", PICTURE, say=PICTURE)
        self.fails(*ALL, "-p", "x", "--video", THINKER, say=THINKER)
        self.fails(*RUN, "-p", "x", "--image", PICTURE, say="--mmproj")
        for name in ["a.mp4", "a", "no/a.wav", "no/a.mp3"]:
            self.fails(*ALL, "-p", "x", "-o", name, say=name)
            for command in ["run", "speak"]:  # said before a model is loaded, which may take minutes
                self.fails(command, "-m", "no.gguf", "--talker", "no.gguf", "-p", "x", "-o", name, say=name)
        self.fails("imatrix", "-m", "no.gguf", "-f", THINKER, "-o", "no/a.gguf", say="no/a.gguf")
        self.fails("imatrix", "-m", THINKER, "-f", os.devnull, say="empty")
        self.fails(*ALL, "-p", "x", "-o", "a.wav", "--voice", "nobody", say=["nobody", "chelsie"])
        self.assertEqual(os.listdir(self.folder.name), [])


@unittest.skipUnless(hasattr(os, "sched_getaffinity"), "threads cannot be kept on CPUs here")
class Scheduling(Case):
    """--cpu-mask and its like, with CPUs that this test may use: the same answers, from threads that are where they were told to be."""
    CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    ASK = [*RUN, "-p", "What is this?", "--greedy", "--ignore-eos", "-n", 8]

    @staticmethod
    def mask(cpus):
        return f"{sum(1 << c for c in cpus):x}"

    def test_same_answer(self):
        a, z = self.CPUS[0], self.CPUS[-1]
        text = self.omni(*self.ASK, "-t", 1)[0]
        for flags in [["-C", self.mask(self.CPUS)], ["-C", "0x" + self.mask([z]).upper()], ["--cpu-mask=" + "0" * 600 + self.mask([a])], ["-Cr", f"{z}-{z}"],
                      ["--cpu-range", f"{a}-{a}", "-C", self.mask([z])], ["--cpu-strict", 1], ["-C", self.mask([a]), "-t", 3], ["--cpu-strict", 0],
                      ["-C", self.mask([z]), "--cpu-strict", 1, "-t", 1], ["--poll", 0], ["--poll", 100, "-t", 2], ["--poll", 0, "--cpu-strict", 1]]:
            self.assertEqual(self.omni(*self.ASK, *flags)[0], text, flags)

    def places(self, want, *flags):
        """While omni answers, its threads are kept on CPUs as in want; a sanitizer's own thread may be anywhere."""
        p = self.start("run", "-m", THINKER, *ENDLESS, "--greedy", *flags, stdin=subprocess.PIPE)
        p.stdin.write(b"What is this?\n")
        p.stdin.flush()
        p.stdout.read(1)  # it answers: the threads are at work
        seen = [sorted(os.sched_getaffinity(int(t))) for t in os.listdir(f"/proc/{p.pid}/task")]
        for cpus in want:
            self.assertIn(cpus, seen, flags)
            seen.remove(cpus)
        self.assertLessEqual(len(seen), 1, flags)
        for cpus in seen:
            self.assertEqual(cpus, self.CPUS, flags)

    @unittest.skipUnless(os.path.isdir("/proc/self/task"), "needs /proc")
    def test_places(self):
        cpus = self.CPUS[-2:]
        self.places([self.CPUS] * 2, "-t", 2)
        self.places([cpus] * 3, "-t", 3, "-C", self.mask(cpus))
        self.places([[c] for c in cpus], "-C", self.mask(cpus), "--cpu-strict", 1)
        self.places([cpus[-1:]], "-Cr", f"{cpus[-1]}-{cpus[-1]}")

    def test_mistakes(self):
        far = os.sysconf("SC_NPROCESSORS_CONF")
        for flags, say in {("-C", ""): "there is no CPU in it", ("-C", "0x0"): "there is no CPU in it", ("-C", "12g"): ['"12g"', "hexadecimal"],
                           ("-Cr", "1"): ['"1"', "LO-HI"], ("-Cr", "3-1"): "backwards", ("-Cr", "0-9999999999999999999999"): "more than",
                           ("-C", self.mask([far])): f"no CPU {far} on this machine: it has {far}", ("-Cr", "0-8191"): "CPU ",
                           ("-C", self.mask(self.CPUS[:1]), "--cpu-strict", 1, "-t", 2): ["2 threads", "CPU of its own", "-t"]}.items():
            self.fails(*self.ASK, *flags, say=say)
            if flags[0] == "-C":
                self.fails("bench", "--synthetic", "q8_0", *flags, say=say)
                self.fails("speak", "-m", THINKER, "--talker", TALKER, "-p", "x", "-o", "a.wav", *flags, say=say)
                self.fails("imatrix", "-m", THINKER, "-f", os.path.join(harness.ROOT, "LICENSE"), *flags, say=say)
        self.assertEqual(os.listdir(self.folder.name), [])

    def test_taken_away(self):
        """A CPU that taskset or a container keeps from this process."""
        if len(self.CPUS) < 2:
            self.skipTest("one CPU: nothing to take away")
        a, z = self.CPUS[0], self.CPUS[-1]
        os.sched_setaffinity(0, [a])  # omni inherits it
        self.addCleanup(os.sched_setaffinity, 0, self.CPUS)
        self.fails(*self.ASK, "-C", self.mask([z]), say=[f"CPU {z} is not among those that this process may use, which are {a}:", "taskset"])
        self.omni(*self.ASK, "-C", self.mask([a]), "--cpu-strict", 1)


class Levels(Case):
    """OMNI_CPU picks the instruction set of the kernels: every one that this processor has gives the same text, whatever the weights' type."""

    def test_greedy_text(self):
        levels = self.fails_with_level("none")
        self.assertEqual(levels[0], "generic")
        for kind in ["f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]:
            model = self.path(kind + ".gguf")
            self.omni("quantize", THINKER, model, kind)
            texts = {level: self.omni("run", "-m", model, "-p", "What is this?", "--greedy", "--ignore-eos", "-n", 12, env={"OMNI_CPU": level})[0] for level in levels}
            self.assertEqual(set(texts.values()), {texts["generic"]}, kind)

    def fails_with_level(self, level):
        _, err = self.omni(*RUN, "-p", "x", status=1, env={"OMNI_CPU": level})
        self.assertIn(f"OMNI_CPU={level}", err)
        return err.strip().rsplit("it offers ", 1)[1].split(", ")


class Answers(Case):
    def test_media(self):
        """Picture, sound and video, from a container and from frames, change the answer's prompt, in any order."""
        tokens = {}
        for name, media in {"none": [], "image": ["--image", PICTURE], "audio": ["--audio", QUESTION], "mp4": ["--video", f"{VIDEOS}/sound.mp4"],
                            "npy": ["--video", f"{VIDEOS}/sound.mp4.npy"], "webm": ["--video", f"{VIDEOS}/vp9.webm"],
                            "heard": ["--use-audio-in-video", "--video", f"{VIDEOS}/sound.mp4"]}.items():
            r = json.loads(self.omni(*ALL, *media, "-p", "What?", "--greedy", "-n", 4, "--json")[0])
            tokens[name] = r["prompt_tokens"]
            self.assertEqual(r["answer_tokens"], 4)
        for name in ["image", "audio", "mp4", "npy", "webm"]:
            self.assertGreater(tokens[name], tokens["none"] + 2)
        self.assertGreater(tokens["heard"], tokens["mp4"])
        alone = tokens["none"]
        both = json.loads(self.omni(*ALL, "--audio", QUESTION, "--image", PICTURE, "-p", "What?", "--greedy", "-n", 4, "--json")[0])
        self.assertEqual(both["prompt_tokens"], tokens["image"] + tokens["audio"] - alone)

    def test_speech_files(self):
        common = [*ALL, "--audio", QUESTION, "-p", "x", "--greedy", "-n", 12, "--max-frames", 20]
        text = self.omni(*common, "-o", "a.wav")[0]
        samples = self.wav(self.path("a.wav"))
        self.assertGreater(len(samples), 1000)
        self.assertGreater(len(set(samples)), 100)
        self.assertEqual(self.omni(*common, "-o", "a.pcm")[0], text)
        with open(self.path("a.wav"), "rb") as w, open(self.path("a.pcm"), "rb") as p:
            self.assertEqual(w.read()[44:], p.read())
        stream, err = self.omni(*common, "-o", "-", text=False)
        self.assertEqual(self.wav_bytes(stream, True), samples)
        self.assertTrue(err.startswith(text), err)
        self.assertEqual(self.omni(*common)[0], text)
        self.assertEqual(sorted(os.listdir(self.folder.name)), ["a.pcm", "a.wav"])

    def test_speech_formats(self):
        """The file's ending names the format; ffmpeg, which reads each again, is the judge."""
        speak = ["speak", "-m", TINY, "-p", "Hello, my name is Omni.", "--greedy", "--max-frames", 30, "-o"]
        self.omni(*speak, "a.wav")
        samples = self.wav(self.path("a.wav"))
        seconds = len(samples) / 24000
        for name, codec in {"a.mp3": "mp3", "b.opus": "opus", "a.OGG": "opus", "a.flac": "flac", "a.aac": "aac"}.items():
            self.omni(*speak, name)
            codec_is, rate = self.tool("ffprobe", "-v", "error", "-show_entries", "stream=codec_name,sample_rate", "-of", "csv=p=0", name).decode().strip().split(",")
            self.assertEqual((codec_is, rate), (codec, "48000" if codec == "opus" else "24000"))
            decoded = self.tool("ffmpeg", "-v", "error", "-i", name, "-f", "s16le", "-ar", "24000", "-")
            self.assertGreaterEqual(len(decoded), 2 * len(samples) - 4, name)
            self.assertLess(len(decoded) / 48000, seconds + 0.2, name)
            if codec == "flac":
                self.assertEqual(struct.unpack(f"<{len(samples)}h", decoded), samples)
        for name, bytes_a_second in {"a.raw": 48000, "a.f32": 96000, "a.ulaw": 8000, "a.alaw": 8000}.items():
            self.omni(*speak, name)
            self.assertAlmostEqual(os.path.getsize(self.path(name)) / bytes_a_second, seconds, delta=0.001)
        self.assertEqual(len(os.listdir(self.folder.name)), 10)  # and no part of a file
        self.omni("run", "-m", TINY, "-p", "x", "-n", 12, "--max-frames", 6, "--ignore-eos", "-o", "two.mp3", stdin="")
        self.fails(*speak, "a.m4a", say=[".mp3", ".flac", "a.m4a"])

    def test_json(self):
        r = json.loads(self.omni(*ALL, "-p", 'say "x"\n\\', "--greedy", "-n", 9, "--max-frames", 5, "--json", "-o", "a.wav")[0])
        self.assertEqual(r["output"], "a.wav")
        self.assertEqual(r["frames"], 5)
        self.assertEqual(r["samples"], len(self.wav(self.path("a.wav"))))
        self.assertEqual((r["finish"], r["answer_tokens"], r["cached_tokens"]), ("length", 9, 0))
        self.assertEqual(r["text"] + "\n", self.omni(*ALL, "-p", 'say "x"\n\\', "--greedy", "-n", 9)[0])
        for seed in range(20):  # random tokens: control characters, quotes, halves of characters
            json.loads(self.omni(*RUN, "-p", "x", "--temp", 100, "--top-k", 0, "--top-p", 1, "-s", seed, "-n", 100, "--json", "--ignore-eos")[0])

    def test_stop(self):
        whole = self.omni(*RUN, "-p", "x", "--greedy", "-n", 30)[0].rstrip("\n")
        stop = whole[10:14]
        at = min(whole.find(stop), whole.find(stop))
        self.assertEqual(self.omni(*RUN, "-p", "x", "--greedy", "-n", 30, "--stop", "not in it", "--stop", stop)[0].rstrip("\n"), whole[:at].rstrip("\n"))
        self.assertEqual(json.loads(self.omni(*RUN, "-p", "x", "--greedy", "-n", 30, "--stop", stop, "--json")[0])["finish"], "stop")

    def test_seed(self):
        common = [*ALL, "-p", "x", "-n", 20, "--max-frames", 10]
        runs = [self.omni(*common, "-s", s, "-t", t, "-o", f"{i}.wav")[0] for i, (s, t) in enumerate([(1, 1), (1, 2), (2, 1)])]
        sounds = [self.wav(self.path(f"{i}.wav")) for i in range(3)]
        self.assertEqual((runs[0], sounds[0]), (runs[1], sounds[1]))
        self.assertNotEqual((runs[0], sounds[0]), (runs[2], sounds[2]))
        self.assertEqual(self.omni(*RUN, "-p", "x", "-n", 9, "--temp", 0)[0], self.omni(*RUN, "-p", "x", "-n", 9, "--greedy")[0])

    def test_messages(self):
        conversation = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}])
        with open(self.path("m.json"), "w") as f:
            f.write(conversation)
        flags = ["--greedy", "-n", 12]
        expected = self.omni(*RUN, "--system", "Be brief.", "-p", "x", *flags)[0]
        self.assertEqual(self.omni(*RUN, "--messages", "m.json", *flags)[0], expected)
        self.assertEqual(self.omni(*RUN, "--messages", "-", *flags, stdin=conversation)[0], expected)
        parts = [{"role": "user", "content": [{"type": "image", "path": PICTURE}, {"type": "text", "text": "x"}]}]
        self.assertEqual(self.omni(*ALL, "--messages", "-", *flags, stdin=json.dumps(parts))[0], self.omni(*ALL, "--image", PICTURE, "-p", "x", *flags)[0])
        for bad in ["", "{", "[]", "3", '[{"role": "user"}]', '[{"role": "nobody", "content": "x"}]', '[{"role": "user", "content": [{"type": "smell"}]}]']:
            self.fails(*RUN, "--messages", "-", *flags, stdin=bad, say="omni: standard input: ")
        parts[0]["content"].append({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})
        with open(self.path("m.json"), "w") as f:
            json.dump(parts, f)
        self.fails(*ALL, "--messages", "m.json", say="omni: m.json: messages[0].content[2]: image data: ")

    def test_texts_that_cannot_fit(self):
        """48 MB of blanks took 19 s to be refused: what certainly has too many tokens is not tokenised."""
        with open(self.path("big.txt"), "wb") as f:
            f.write(b" " * 48_000_000)
        with open(self.path("big.json"), "w") as f:
            json.dump([{"role": "user", "content": " " * 48_000_000}], f)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        for flags in [["-f", "big.txt"], ["--messages", "big.json"]]:
            self.fails(*RUN, *flags, "-c", 100, say=["48000005 bytes of text", "375001 of them", "context is 100"])
        self.fails("speak", "-m", THINKER, "--talker", TALKER, "-f", "big.txt", "-o", "x.wav", say=["48000000 bytes of text", "375000 tokens", "4096"])
        self.assertLess(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before, 6)

    def test_messages_from_a_pipe(self):
        """A named pipe is waited for and read to its end; while nobody writes, Ctrl+C ends it; what never ends is refused at the limit."""
        os.mkfifo(self.path("pipe"))
        for number in [signal.SIGINT, signal.SIGTERM]:
            p = self.start(*RUN, "--messages", "pipe", "-n", 4)
            self.assertRaises(subprocess.TimeoutExpired, p.wait, 0.5)
            p.send_signal(number)
            p.communicate(timeout=10)
            self.assertIn(p.returncode, [-number, 128 + number])
        want = self.omni(*RUN, "-p", "x", "--greedy", "-n", 4)[0]
        p = self.start(*RUN, "--messages", "pipe", "--greedy", "-n", 4)
        with open(self.path("pipe"), "w") as f:
            for piece in ['[{"role": "user", ', '"content": "x"}]']:
                f.write(piece)
                f.flush()
                time.sleep(0.2)
        self.assertEqual(p.communicate(timeout=harness.LONG)[0].decode(), want)
        self.fails(*RUN, "--messages", "/dev/zero", say=["/dev/zero", "larger than 512 MiB"])
        self.fails(*RUN, "--messages", ".", say="omni: .: Is a directory")

    def test_context(self):
        self.fails(*RUN, "-p", "x " * 100, "-c", 50, say=["109 tokens", "context is 50", "-c"])
        r = json.loads(self.omni(*RUN, "-p", "x", "-c", 20, "--greedy", "--ignore-eos", "-n", 100, "--json")[0])
        self.assertEqual(r["finish"], "length")
        self.assertLessEqual(r["prompt_tokens"] + r["answer_tokens"], 21)  # the last token is drawn, not read

    def test_voices(self):
        out, err = self.omni(*ALL, "-p", "x", "-o", "a.wav", "--voice", "nobody", status=1)
        voices = err.split("has: ")[1].strip().split(", ")
        self.assertIn("chelsie", voices)
        self.fails(*ALL, "-p", "x", "--voice", "nobody", say="has: ")  # without sound, too
        sounds = []
        for v in [*voices, voices[0].upper()]:
            self.omni("speak", "-m", THINKER, "--talker", TALKER, "-p", "Hello there", "-o", "v.wav", "--voice", v, "--greedy", "--max-frames", 8)
            sounds.append(self.wav(self.path("v.wav")))
        self.assertEqual(len(set(sounds)), len(voices))
        self.assertEqual(sounds[0], sounds[-1])
        self.omni("speak", "-m", THINKER, "--talker", TALKER, "-p", "Hello there", "-o", "d.wav", "--greedy", "--max-frames", 8)
        self.assertEqual(self.wav(self.path("d.wav")), sounds[voices.index("chelsie")])

    def test_tools(self):
        tools = json.dumps([{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}])
        with open(self.path("t.json"), "w") as f:
            f.write(tools)
        with_tools = json.loads(self.omni(*RUN, "-p", "x", "--tools", "t.json", "-n", 3, "--json")[0])
        self.assertGreater(with_tools["prompt_tokens"], 20)
        with open(self.path("t.json"), "w") as f:
            f.write("{")
        self.fails(*RUN, "-p", "x", "--tools", "t.json", say="JSON")


class Tools(Case):
    def test_tokenize(self):
        out = self.omni("tokenize", "-m", THINKER, "Hi\n <|im_end|>")[0]
        ids = [line.split()[0] for line in out.splitlines()]
        self.assertEqual(self.omni("tokenize", "-m", THINKER, "--ids", "Hi\n <|im_end|>")[0].split(), ids)
        marked = self.omni("tokenize", "-m", THINKER, "--ids", "--markup", "Hi\n <|im_end|>")[0].split()
        self.assertLess(len(marked), len(ids))
        self.assertIn('"\\n', out)
        out = self.omni("tokenize", "-m", THINKER, "é你好")[0]
        pieces = [re.fullmatch(r' *\d+  "(.*)"', line)[1] for line in out.splitlines()]
        self.assertTrue(any("\\x" in p for p in pieces), out)  # parts of characters show their bytes
        self.assertEqual(b"".join(bytes.fromhex(p.replace("\\x", "")) if "\\x" in p else p.encode() for p in pieces).decode(), "é你好")
        self.assertEqual(self.omni("tokenize", "-m", THINKER, "")[0], "")
        self.assertEqual(self.omni("tokenize", "-m", THINKER, "--ids", "--", "--ids")[0].count("\n"), 1)

    def test_info(self):
        for f in [THINKER, MMPROJ, TALKER]:
            d = json.loads(self.omni("info", f, "--json")[0])
            self.assertIsInstance(d, dict)
            out = self.omni("info", f)[0]
            self.assertIn(f"{os.path.getsize(f):,} bytes", out)
        self.fails("info", PICTURE, say=PICTURE)

    def test_split_and_merge(self):
        """A model in parts answers as the whole does, from any of its parts, and is merged to the same bytes."""
        want = self.omni(*RUN, "-p", "x", "-n", 8, "--greedy")[0]
        out = self.omni("split", THINKER, "m", "--split-max-size", "1M")[0]
        self.assertRegex(out, r"^m-00001-of-00002\.gguf  1\.12 MB in 2 parts, \d+ tensors\n$")
        self.assertEqual(sorted(os.listdir(self.folder.name)), ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"])
        for n in os.listdir(self.folder.name):
            self.assertLessEqual(os.path.getsize(self.path(n)), 1000000)
            self.assertEqual(self.omni("run", "-m", n, "-p", "x", "-n", 8, "--greedy")[0], want)
        self.omni("merge", "m-00002-of-00002.gguf", "whole.gguf")
        with open(THINKER, "rb") as a, open(self.path("whole.gguf"), "rb") as b:
            self.assertEqual(a.read(), b.read())
        self.fails("merge", "whole.gguf", "x.gguf", say=["whole.gguf", "nothing to merge"])
        self.fails("split", "m-00001-of-00002.gguf", "m", "--split-max-size", "1M", say="same file")
        self.fails("split", THINKER, "x", "--split-max-size", "1M", "--split-max-tensors", 3, status=2, say="together")
        for size in ["1T", "M", "0M", "-1M", "1.5G", "1", "99999999999999999999G", "20000000000G", "1MB"]:
            self.fails("split", THINKER, "x", f"--split-max-size={size}", status=2, say=["--split-max-size", f'"{size}"'])
            self.fails("convert", "x", "-o", "y", f"--split-max-size={size}", status=2, say=["omni convert: --split-max-size", f'"{size}"'])
        self.fails("split", status=2, say="which file?")
        self.fails("split", THINKER, status=2, say="begin with")
        self.fails("merge", status=2, say="which file?")
        self.fails("merge", "m-00001-of-00002.gguf", status=2, say="where to?")
        os.remove(self.path("m-00002-of-00002.gguf"))
        self.fails("merge", "m-00001-of-00002.gguf", "x.gguf", say=["part 2 of 2", "m-00002-of-00002.gguf"])
        self.assertEqual(sorted(os.listdir(self.folder.name)), ["m-00001-of-00002.gguf", "whole.gguf"])

    def test_replaces_only_files(self):
        speech = [*ALL, "-p", "x", "-n", 3, "--max-frames", 2, "--greedy", "-o"]
        os.mkdir(self.path("folder.wav"))
        os.mkfifo(self.path("pipe.wav"))
        os.symlink("/dev/null", self.path("null.wav"))
        for name, what in [("folder", "a folder"), ("pipe", "a device or a pipe"), ("null", "a device or a pipe")]:
            self.fails(*speech, f"{name}.wav", say=[f"{name}.wav: is {what}"])
        self.omni(*speech, "a.wav")
        os.symlink("a.wav", self.path("link.wav"))
        with open(self.path("a.wav"), "r+b") as f:
            f.truncate()
        self.omni(*speech, "link.wav")
        self.assertTrue(os.path.islink(self.path("link.wav")))
        self.assertGreater(len(self.wav(self.path("a.wav"))), 0)

    def test_file_cut_short_in_use(self):
        """A mapped model file that loses its end: an error that names it. Its weights must be read from the map: not repacked."""
        shutil.copy(THINKER, self.path("m.gguf"))
        p = self.start("run", "-m", "m.gguf", "--no-repack", "-n", 8, stdin=subprocess.PIPE, bufsize=0)
        p.stdin.write(b"one\n")
        self.assertTrue(p.stdout.read(1))  # it is open
        os.truncate(self.path("m.gguf"), 65536)
        out, err = p.communicate(b"two\n" * 100, timeout=harness.LONG)
        self.assertEqual(p.returncode, 1, err)
        self.assertRegex(err.decode(), r"(?m)^omni: /\S*/m\.gguf: was cut short .*\n\Z")  # the first answer may have ended before

    def test_lost_output(self):
        for args in [["info", THINKER], ["tokenize", "-m", THINKER, "x"], ["run", "--help"], ["--help"], ["--version"], [*RUN, "-p", "x", "-n", 4],
                     [*RUN, "-p", "x", "-n", 4, "--json"], [*ALL, "-p", "x", "-n", 4, "-o", "-"]]:
            with open("/dev/full", "w") as full:
                p = self.start(*args, stdout=full)
                err = p.stderr.read().decode()
            self.assertEqual(p.wait(), 1, args)
            self.assertIn("standard output", err)

    def test_file_size_limit(self):
        """ulimit -f: an error that names the file, and nothing is left of it."""
        p = self.start("synth", "a.gguf", "--layers", 1, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)))
        err = p.communicate(timeout=harness.LONG)[1].decode()
        self.assertEqual(p.returncode, 1)
        self.assertIn("a.gguf: ", err)
        self.assertIn("too large", err)
        self.assertEqual(os.listdir(self.folder.name), [])

    def test_broken_pipe(self):
        for args in [[*RUN, "-p", "x", *ENDLESS], [*ALL, "-p", "x", "--greedy", *ENDLESS, "-o", "-"]]:  # greedy speech is long, random speech may end at once
            p = self.start(*args)
            self.assertTrue(p.stdout.read(1))
            started = time.monotonic()
            p.stdout.close()
            err = p.stderr.read().decode(errors="replace")
            self.assertEqual(p.wait(), 1)
            self.assertIn("standard output", err)


def tensors(data):
    """{name: (offset in the file, bytes up to the next tensor)} of a GGUF file, read as its format is documented."""
    def number(fmt):
        nonlocal at
        v = struct.unpack_from("<" + fmt, data, at)[0]
        at += struct.calcsize(fmt)
        return v

    def text():
        nonlocal at
        n = number("Q")
        at += n
        return data[at - n:at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            element, n = number("I"), number("Q")
            return [value(element) for _ in range(n)]
        return number("BbHhIif?__Qqd"[kind])

    at = 8
    count, keys = number("Q"), number("Q")
    for _ in range(keys):
        text()
        value(number("I"))
    found = []
    for _ in range(count):
        name = text()
        dims = number("I")
        at += 8 * dims + 4
        found.append((number("Q"), name))
    start = (at + 31) // 32 * 32
    ends = [o for o, _ in found[1:]] + [len(data) - start]
    return {name: (start + o, end - o) for (o, name), end in zip(found, ends)}


class DamagedWeights(Case):
    """Weights that are no numbers: an answer fails, and says in which part it began."""

    def damaged(self, path, name, pattern):
        with open(path, "rb") as f:
            data = bytearray(f.read())
        at, size = tensors(data)[name]
        data[at + 16:at + 16 + len(pattern)] = pattern
        with open(self.path("d.gguf"), "wb") as f:
            f.write(data)
        return "d.gguf"

    def test_quantised(self):
        """Inputs of quantised matrices are rounded to whole numbers: what is no number must not get lost there."""
        for kind in ["q8_0", "q4_k_m"]:
            files = {}
            for flag, file in [("-m", THINKER), ("--mmproj", MMPROJ), ("--talker", TALKER)]:
                files[flag] = self.path(kind + flag)
                self.omni("quantize", file, files[flag], kind)
            for flag, name, what in [("-m", "blk.0.attn_norm.weight", "thinker"), ("-m", "blk.1.ffn_norm.weight", "thinker"), ("-m", "output_norm.weight", "thinker"),
                                     ("--mmproj", "v.blk.0.ln1.weight", "vision encoder"), ("--mmproj", "a.blk.0.ln1.weight", "audio encoder"),
                                     ("--talker", "talker.output_norm.weight", "talker"), ("--talker", "talker.blk.0.attn_norm.weight", "talker"),
                                     ("--talker", "code_predictor.blk.0.ffn_norm.weight", "code predictor"), ("--talker", "code2wav.blk.0.attn_norm.weight", "code2wav")]:
                for value in [b"\0\0\xc0\x7f", b"\0\0\x80\x7f"]:
                    args = [a for f in files for a in (f, self.damaged(files[f], name, value) if f == flag else files[f])]
                    err = self.omni("run", *args, "--image", PICTURE, "--audio", QUESTION, "-p", "x", "-n", 8, "--ignore-eos", "-o", "a.wav", "--greedy",
                                    "--max-frames", 8, status=1)[1]
                    self.assertIn(f"{what} computed NaN or infinite", err, name)

    def test_answers(self):
        f32, f16 = [b"\0\0\xc0\x7f", b"\0\0\x80\x7f"], [b"\0\x7e", b"\0\xfc"]
        media = ["--image", PICTURE, "--audio", QUESTION]
        for file, name, what, values in [
            ("-m", "output_norm.weight", "the thinker computed", f32), ("-m", "blk.0.attn_norm.weight", "the thinker computed", f32),
            ("-m", "blk.1.attn_q.weight", "the thinker computed", f16), ("-m", "output.weight", "the thinker computed", f16),
            ("--mmproj", "v.blk.0.attn_out.weight", "the vision encoder computed", f16), ("--mmproj", "v.patch_embd.bias", "the vision encoder computed", f32),
            ("--mmproj", "mm.0.weight", "the vision encoder computed", f16),
            ("--mmproj", "a.blk.0.attn_out.weight", "the audio encoder computed", f16), ("--mmproj", "a.post_ln.weight", "the audio encoder computed", f32),
            ("--talker", "talker.output_norm.weight", "the talker computed", f32), ("--talker", "code_predictor.output_norm.weight", "the code predictor computed", f32),
            ("--talker", "code2wav.output_norm.weight", "code2wav computed", f32),
        ]:
            for value in values:
                files = {"-m": THINKER, "--mmproj": MMPROJ, "--talker": TALKER}
                files[file] = self.damaged(files[file], name, value)
                args = [a for pair in files.items() for a in pair]
                err = self.omni("run", *args, *media, "-p", "x", "-n", 8, "--ignore-eos", "-o", "a.wav", "--greedy", status=1)[1]
                self.assertIn(what, err, name)
                self.assertIn("NaN or infinite", err)


class Interrupts(Case):
    def test_answer(self):
        for number in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]:
            p = self.start(*ALL, "-p", "x", "--greedy", *ENDLESS, "-o", "a.wav")
            p.stdout.read(200)
            self.wait_written(p, 45)  # more than the header: on a busy machine text is well ahead of sound
            self.assertFalse(os.path.exists(self.path("a.wav")))
            p.send_signal(number)
            out, err = p.communicate(timeout=harness.LONG)
            self.assertEqual((p.returncode, err), (128 + number, b""))
            self.assertGreater(len(self.wav(self.path("a.wav"))), 0)
            self.assertEqual(os.listdir(self.folder.name), ["a.wav"])
            os.remove(self.path("a.wav"))

    def test_json(self):
        p = self.start(*ALL, "-p", "x", "--greedy", *ENDLESS, "-o", "a.wav", "--json")
        self.wait_written(p, 2000)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=harness.LONG)
        self.assertEqual(p.returncode, 130)
        r = json.loads(out)
        self.assertEqual(r["finish"], "cancelled")
        self.assertEqual(len(self.wav(self.path("a.wav"))), r["samples"])

    def test_sound_is_whole_in_every_format(self):
        """As much as was said, under headers that say so: FLAC's number of samples, MP3's of frames, Ogg's last page."""
        for name in ["a.mp3", "a.opus", "a.flac", "a.aac"]:
            p = self.start(*ALL, "-p", "x", "--greedy", *ENDLESS, "-o", name)
            self.wait_written(p, 4001)
            p.send_signal(signal.SIGINT)
            p.communicate(timeout=harness.LONG)
            self.assertEqual((p.returncode, os.listdir(self.folder.name)), (130, [name]))
            samples = len(self.tool("ffmpeg", "-v", "error", "-xerror", "-i", name, "-f", "s16le", "-ar", "24000", "-")) / 2
            self.assertGreater(samples, 2000)
            if name != "a.aac":  # which has no header
                told = float(self.tool("ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", name))
                self.assertAlmostEqual(told, samples / 24000, delta=0.12)
            os.remove(self.path(name))

    def test_killed_leaves_no_final_name(self):
        p = self.start(*ALL, "-p", "x", "--greedy", *ENDLESS, "-o", "a.wav")
        p.stdout.read(50)
        p.kill()
        p.wait()
        self.assertEqual(os.listdir(self.folder.name), [])

    def test_synth(self):
        """The writer that convert shares: killed or interrupted midway, nothing is there under the final name."""
        for number, status in [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]:
            p = self.start("synth", "a.gguf", "--layers", 4, "-t", 1)
            self.wait_written(p, 1 << 20)
            p.send_signal(number)
            p.communicate(timeout=harness.LONG)
            self.assertEqual(p.returncode, status)
            self.assertEqual(os.listdir(self.folder.name), [])

    def test_bench_leaves_nothing(self):
        """Random weights have no name in the scratch folder, and none that anyone could lay a link under; killed, they are gone."""
        os.mkdir(self.path("scratch"))
        for number, status in [(signal.SIGINT, 130), (signal.SIGKILL, -9)]:
            p = self.start("bench", "--synthetic", "q8_0", "--layers", 4, "-t", 1, "--scratch", "scratch")
            while self.written(p) < 1 << 20:
                self.assertIsNone(p.poll(), "ended before it could be stopped")
                self.assertEqual(os.listdir(self.path("scratch")), [])
                time.sleep(0.01)
            p.send_signal(number)
            p.communicate(timeout=harness.LONG)
            self.assertEqual(p.returncode, status)
            self.assertEqual(os.listdir(self.path("scratch")), [])


if __name__ == "__main__":
    harness.use(sys.argv.pop(1))
    unittest.main()
