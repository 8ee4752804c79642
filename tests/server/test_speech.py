"""/v1/audio/speech, and the formats of chat completions' sound: ffmpeg decodes them, omni speak says what the samples are."""
import base64
import http.client
import json
import os
import signal
import struct
import subprocess
import tempfile
import unittest

import harness
from harness import TINY, Case, Server

TEXT = "Hello, my name is Omni, and I say what is written here."
FORMATS = {"mp3": ("audio/mpeg", "mp3"), "wav": ("audio/wav", "pcm_s16le"), "opus": ("audio/ogg", "opus"), "flac": ("audio/flac", "flac"), "aac": ("audio/aac", "aac")}


def decode(sound):
    """(codec, 16-bit samples at 24 kHz)"""
    with tempfile.NamedTemporaryFile() as f:
        f.write(sound)
        f.flush()
        run = lambda *args: subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=harness.LONG).stdout
        codec = run("ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", f.name).decode().strip()
        return codec, run("ffmpeg", "-v", "error", "-i", f.name, "-f", "s16le", "-ac", "1", "-ar", "24000", "-")


def likeness(a, b, shifts):
    """The largest correlation of two sounds, the second later by so many samples."""
    a, b = (struct.unpack(f"<{len(x) // 2}h", x) for x in (a, b))
    best = 0
    for shift in shifts:
        pairs = list(zip(a[4000:12000], b[4000 + shift:12000 + shift]))
        dot, left, right = (sum(p[i] * p[j] for p in pairs) for i, j in [(0, 1), (0, 0), (1, 1)])
        best = max(best, dot / max(left * right, 1) ** 0.5)
    return best


class Speech(Case):
    def say(self, text=TEXT, **fields):
        """(media type, bytes)"""
        status, head, data = self.server.ask("POST", "/v1/audio/speech", {"model": "tts-1", "input": text, "voice": "ethan", "seed": 5, **fields})
        self.assertEqual(status, 200, data[:500])
        return head["Content-Type"], data

    def test_as_the_command_line(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "a.pcm")
            subprocess.run([harness.OMNI, "speak", "-m", TINY, "-p", TEXT, "-s", "5", "--voice", "ethan", "-o", path], check=True, capture_output=True, timeout=harness.LONG)
            with open(path, "rb") as f:
                expected = f.read()
        self.assertGreater(len(expected), 24000)
        self.assertEqual(self.say(response_format="pcm"), ("audio/pcm", expected))

    def test_voices_of_openai(self):
        """Programs that know OpenAI's names alone speak, too: in more than one of the model's voices."""
        names = ["alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse"]
        own = {self.say("Hello.", voice=v, response_format="pcm")[1] for v in ["aiden", "chelsie", "ethan"]}
        self.assertEqual({self.say("Hello.", voice=v, response_format="pcm")[1] for v in names}, own)
        self.assertEqual(self.say("Hello.", voice="alloy"), self.say("Hello.", voice={"id": "alloy"}))

    def test_formats(self):
        pcm = self.say(response_format="pcm")[1]
        self.assertEqual(self.say()[0], "audio/mpeg")
        for name, (kind, codec) in FORMATS.items():
            got, data = self.say(response_format=name)
            self.assertEqual(got, kind)
            is_codec, samples = decode(data)
            self.assertEqual(is_codec, codec)
            if name in ["wav", "flac"]:
                self.assertEqual(samples, pcm)
            else:
                self.assertGreaterEqual(len(samples) + 2, len(pcm))
                self.assertLess(len(samples) - len(pcm), 48000 * 0.2)
                self.assertGreater(likeness(pcm, samples, range(0, 1) if name == "opus" else range(1000, 2300)), 0.9, name)

    def test_as_it_is_made(self):
        """In chunks, the first of which is far from the whole."""
        body = json.dumps({"input": TEXT, "voice": "ethan", "seed": 5, "response_format": "opus"}).encode()
        s = self.server.raw(b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        data = b""
        while piece := s.recv(65536):
            data += piece
        head, rest = data.split(b"\r\n\r\n", 1)
        self.assertIn(b"Transfer-Encoding: chunked", head)
        sizes = []
        while rest:
            size, rest = rest.split(b"\r\n", 1)
            sizes.append(int(size, 16))
            rest = rest[sizes[-1] + 2:]
        self.assertEqual(sizes[-1], 0)
        self.assertGreater(len(sizes), 4)
        self.assertLess(sizes[0], sum(sizes) / 2)

    def test_speed(self):
        whole = len(self.say(response_format="pcm")[1])
        for speed in [0.25, 0.5, 1, 1.5, 2, 4]:
            self.assertAlmostEqual(len(self.say(response_format="pcm", speed=speed)[1]) / 48000, whole / speed / 48000, delta=0.1 if speed != 1 else 0)

    def test_events(self):
        for name in ["mp3", "pcm"]:
            kind, data = self.say(response_format=name, stream_format="sse")
            self.assertEqual(kind, "text/event-stream; charset=utf-8")
            events = [json.loads(e.removeprefix("data: ")) for e in data.decode().split("\n\n")[:-1]]
            self.assertEqual({e["type"] for e in events[:-1]}, {"speech.audio.delta"})
            self.assertGreater(len(events), 3)
            self.assertEqual(b"".join(base64.b64decode(e["audio"]) for e in events[:-1]), self.say(response_format=name)[1])
            self.assertEqual(events[-1]["type"], "speech.audio.done")
            usage = events[-1]["usage"]
            self.assertEqual(usage["total_tokens"], usage["input_tokens"] + usage["output_tokens"])
            self.assertGreater(min(usage.values()), 0)

    def test_accepted(self):
        sound = self.say()[1]
        self.assertEqual(self.say(instructions="Whisper.", voice={"id": "Ethan"}, speed=1, stream_format="audio", unknown=[1])[1], sound)
        self.assertNotEqual(self.say(voice="aiden")[1], sound)
        self.assertGreater(len(self.say(voice=None, speed=None, model=None)[1]), 1000)

    def test_refused(self):
        for fields, param in [({"input": None}, "input"), ({"input": ""}, "input"), ({"input": 5}, "input"), ({"input": "ä" * 4097}, "input"),
                              ({"voice": "nobody"}, "voice"), ({"voice": 5}, "voice"), ({"voice": {}}, "voice"), ({"response_format": "m4a"}, "response_format"),
                              ({"response_format": "pcm16"}, "response_format"), ({"response_format": 1}, "response_format"), ({"speed": 0.2}, "speed"), ({"speed": 4.5}, "speed"),
                              ({"speed": "fast"}, "speed"), ({"stream_format": "json"}, "stream_format"), ({"model": 5}, "model"), ({"instructions": []}, "instructions"),
                              ({"seed": -1}, "seed")]:
            with self.subTest(fields):
                self.error({"input": "x", "voice": "ethan", **fields}, param, path="/v1/audio/speech")
        self.error([], path="/v1/audio/speech")
        self.assertEqual(self.say("ä" * 20, voice="ethan", response_format="pcm")[0], "audio/pcm")

    def test_what_there_is(self):
        voices = self.server.json("GET", "/v1/audio/voices")["voices"]
        self.assertEqual({(v["id"], v["name"]) for v in voices}, {(n, n) for n in ["aiden", "chelsie", "ethan"]})
        models = self.server.json("GET", "/v1/audio/models")
        self.assertEqual(models["models"], [{"id": "qwen3-omni-f16", "name": "qwen3-omni-f16"}])
        self.assertEqual([(m["id"], m["name"], m["object"]) for m in models["data"]], [("qwen3-omni-f16", "qwen3-omni-f16", "model")])
        self.server.json("GET", "/v1/audio/speech", status=405)

    def test_counted(self):
        before = self.server.metric("omni_audio_seconds_total"), self.server.metric("omni_time_to_first_audio_seconds_count")
        seconds = len(self.say(response_format="pcm")[1]) / 48000
        self.assertAlmostEqual(self.server.metric("omni_audio_seconds_total") - before[0], seconds, delta=0.01)
        self.assertEqual(self.server.metric("omni_time_to_first_audio_seconds_count") - before[1], 1)

    def test_client_goes_away(self):
        before = self.server.metric("omni_audio_seconds_total")
        body = json.dumps({"input": TEXT * 60, "voice": "ethan", "seed": 1, "response_format": "flac"}).encode()
        s = self.server.raw(b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.assertTrue(s.recv(100))
        s.close()
        self.server.wait_until(lambda: self.server.metric("omni_engine_requests") == 0, 20)
        self.server.wait_until(lambda: self.server.metric("omni_audio_seconds_total") > before, 20)  # what it heard counts, once all is over

    def test_chat(self):
        ask = dict(modalities=["text", "audio"], seed=5)
        said = lambda name: base64.b64decode(self.server.chat("Hi", audio={"voice": "ethan", "format": name}, **ask)["choices"][0]["message"]["audio"]["data"])
        pcm = said("pcm16")
        self.assertGreater(len(pcm), 3000)
        for name, (_, codec) in FORMATS.items():
            is_codec, samples = decode(said(name))
            self.assertEqual(is_codec, codec)
            if name in ["wav", "flac"]:
                self.assertEqual(samples, pcm)
            else:
                self.assertGreaterEqual(len(samples) + 2, len(pcm))
                self.assertLess(len(samples) - len(pcm), 48000 * 0.2)
        two = self.server.chat("Hi", audio={"voice": "ethan", "format": "flac"}, n=2, **ask)["choices"]
        self.assertEqual(decode(base64.b64decode(two[0]["message"]["audio"]["data"]))[1], pcm)
        self.assertEqual(decode(base64.b64decode(two[1]["message"]["audio"]["data"]))[0], "flac")
        for name in ["wav", "mp3", "opus"]:
            self.error({"messages": [{"role": "user", "content": "x"}], "stream": True, "modalities": ["audio"], "audio": {"voice": "ethan", "format": name}},
                       "audio.format", say="pcm16")


class Alone(unittest.TestCase):
    def test_without_a_talker(self):
        server = Server(model=os.path.join(TINY, "qwen3-omni-f16.gguf"))
        try:
            e = server.json("POST", "/v1/audio/speech", {"input": "x", "voice": "ethan"}, status=400)["error"]
            self.assertIn("--talker", e["message"])
            self.assertEqual(server.json("GET", "/v1/audio/voices")["voices"], [])
            self.assertEqual(server.json("GET", "/v1/audio/models")["models"], [])
        finally:
            self.assertEqual(server.stop(), 0)

    def test_a_cut_answer_is_seen_to_be_cut(self):
        """The server ends while a speech is read slowly: the client is not told that it has all."""
        server = Server("--grace", 0)
        c = server.connect()
        c.request("POST", "/v1/audio/speech", json.dumps({"input": TEXT * 70, "voice": "ethan", "seed": 1, "response_format": "pcm", "speed": 0.25}))
        r = c.getresponse()
        self.assertTrue(r.read(1000))
        server.process.send_signal(signal.SIGTERM)
        with self.assertRaises((http.client.IncompleteRead, ConnectionError)):
            r.read()
        self.assertEqual(server.stop(), 0)
