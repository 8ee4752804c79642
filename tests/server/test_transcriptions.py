"""/v1/audio/transcriptions and /v1/audio/translations. The tiny model's words are random: what they must be is what chat completions says of the same piece of
sound; ffmpeg reads the subtitles, zlib and /detokenize say the rest."""
import base64
import io
import json
import os
import random
import struct
import subprocess
import tempfile
import unittest
import wave
import zlib

import harness
from harness import ROOT, Case, Server

RATE = 16000
PATH = "/v1/audio/transcriptions"
BOUNDARY = "----omni-test-7f3a"
SPACES = " \t\n\r\v\f"


def voice():
    """Speech of 1.8 s, 16-bit samples at 16 kHz."""
    out = subprocess.run(["ffmpeg", "-v", "error", "-i", os.path.join(ROOT, "models/media/question.ogg"), "-f", "s16le", "-ac", "1", "-ar", str(RATE), "-"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=harness.LONG).stdout
    return list(struct.unpack(f"<{len(out) // 2}h", out))


def wav(samples):
    f = io.BytesIO()
    with wave.open(f, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(RATE)
        w.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return f.getvalue()


def form(fields):
    """Fields as (name, text) or (name, (filename, bytes))."""
    body = b""
    for name, value in fields:
        more, data = (f'; filename="{value[0]}"\r\nContent-Type: audio/wav', value[1]) if isinstance(value, tuple) else ("", str(value).encode())
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + data + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


HEAD = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


class Transcriptions(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.voice = voice()
        gap = [random.Random(1).randrange(-3, 4) for _ in range(2 * RATE)]
        cls.three = cls.voice + gap + cls.voice + gap + gap + cls.voice
        cls.starts = [0, len(cls.voice) + len(gap), 2 * len(cls.voice) + 3 * len(gap)]

    def send(self, sound, *fields, path=PATH, status=200):
        got, head, data = self.server.ask("POST", path, form([("file", ("a.wav", wav(sound))), ("model", "whisper-1"), *fields]), HEAD)
        self.assertEqual(got, status, data[:500])
        return head["Content-Type"], data

    def whole(self, sound, *fields, path=PATH):
        return json.loads(self.send(sound, *fields, path=path)[1])

    def by_chat(self, samples, question):
        r = self.server.chat([{"type": "input_audio", "input_audio": {"data": base64.b64encode(wav(samples)).decode(), "format": "wav"}}, {"type": "text", "text": question}],
                             temperature=0, max_tokens=64 + len(samples) * 16 // RATE)
        return r["choices"][0]["message"]["content"].strip(SPACES)

    def test_segments_as_chat(self):
        r = self.whole(self.three, ("response_format", "verbose_json"), ("timestamp_granularities[]", "segment"))
        self.assertEqual((r["task"], r["duration"], r["usage"]), ("transcribe", len(self.three) / RATE, {"type": "duration", "seconds": len(self.three) / RATE}))
        self.assertIn(r["language"], ["english", "chinese", "korean", "japanese", "german", "russian", "italian", "french", "spanish", "portuguese", "malay", "dutch",
                                      "indonesian", "turkish", "vietnamese", "cantonese", "arabic", "urdu"])
        self.assertEqual(len(r["segments"]), 3)
        for i, (s, start) in enumerate(zip(r["segments"], self.starts)):
            self.assertEqual((s["id"], s["seek"], s["temperature"], s["no_speech_prob"]), (i, int(s["start"] * 100), 0, 0))
            self.assertAlmostEqual(s["start"], start / RATE, delta=0.5)
            self.assertAlmostEqual(s["end"], start / RATE + len(self.voice) / RATE, delta=0.5)
            piece = self.three[round(s["start"] * RATE):round(s["end"] * RATE)]
            self.assertEqual(s["text"], self.by_chat(piece, "Transcribe the audio into text."))
            self.assertEqual(self.server.json("POST", "/detokenize", {"tokens": s["tokens"]})["content"].strip(SPACES), s["text"])
            self.assertLess(s["avg_logprob"], 0)
            data = s["text"].encode()
            self.assertAlmostEqual(s["compression_ratio"], len(data) / len(zlib.compress(data)), places=6)
        texts = [s["text"] for s in r["segments"]]
        self.assertTrue(all(texts) and len(set(texts)) > 1, texts)
        self.assertEqual(r["text"], " ".join(texts))
        plain = self.whole(self.three)
        self.assertEqual(plain["text"], r["text"])
        u = plain["usage"]
        self.assertEqual(u["type"], "tokens")
        self.assertEqual(u["total_tokens"], u["input_tokens"] + u["output_tokens"])
        self.assertEqual(u["input_tokens"], sum(u["input_token_details"].values()))
        self.assertGreaterEqual(u["output_tokens"], sum(len(s["tokens"]) for s in r["segments"]))
        self.assertAlmostEqual(u["input_token_details"]["audio_tokens"], 13 * sum(s["end"] - s["start"] for s in r["segments"]), delta=12)
        self.assertEqual(self.send(self.three, ("response_format", "text")), ("text/plain; charset=utf-8", r["text"].encode() + b"\n"))

    def test_what_is_asked(self):
        cut = self.whole(self.voice, ("response_format", "verbose_json"), ("language", "de-AT"))["segments"]
        piece = self.voice[round(cut[0]["start"] * RATE):round(cut[0]["end"] * RATE)]
        asked = {(PATH, ("language", "de")): "Transcribe the German audio into text.",
                 (PATH, ("language", "German")): "Transcribe the German audio into text.",
                 (PATH, ("language", "zh")): "请将这段中文语音转换为纯文本。",
                 (PATH, ("prompt", "Omni, Qwen")): "Transcribe the audio into text.\nContext: Omni, Qwen",
                 (PATH, ("keywords[]", "Omni")): "Transcribe the audio into text.\nContext: Omni",
                 ("/v1/audio/translations", ("stream", "true")): "Listen to the provided speech and produce a translation in English text."}
        answers = set()
        for (path, field), question in asked.items():
            answers.add(self.whole(self.voice, field, path=path)["text"])
            self.assertEqual(self.whole(self.voice, field, path=path)["text"], self.by_chat(piece, question), question)
        self.assertGreater(len(answers), 3)
        r = self.whole(self.voice, ("response_format", "verbose_json"), path="/v1/audio/translations")
        self.assertEqual((r["task"], r["language"]), ("translate", "english"))
        self.assertEqual(self.whole(self.voice, ("response_format", "verbose_json"), ("language", "yue"))["language"], "cantonese")

    def test_subtitles(self):
        segments = self.whole(self.three, ("response_format", "verbose_json"), ("language", "en"))["segments"]
        for name, kind, codec in [("srt", "application/x-subrip; charset=utf-8", "subrip"), ("vtt", "text/vtt; charset=utf-8", "webvtt")]:
            got, data = self.send(self.three, ("response_format", name), ("language", "en"))
            self.assertEqual(got, kind)
            with tempfile.NamedTemporaryFile(suffix="." + name) as f:
                f.write(data)
                f.flush()
                out = subprocess.run(["ffprobe", "-v", "error", "-show_entries", "stream=codec_name:packet=pts_time,duration_time", "-of", "json", f.name],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=harness.LONG).stdout
            read = json.loads(out)
            self.assertEqual(read["streams"][0]["codec_name"], codec)
            self.assertEqual(len(read["packets"]), 3)
            for p, s in zip(read["packets"], segments):
                self.assertAlmostEqual(float(p["pts_time"]), s["start"], delta=0.001)
                self.assertAlmostEqual(float(p["duration_time"]), s["end"] - s["start"], delta=0.0021)

    def test_stream(self):
        for fields in [[], [("include[]", "logprobs")]]:
            plain = self.whole(self.three, *fields)
            kind, data = self.send(self.three, ("stream", "true"), *fields)
            self.assertEqual(kind, "text/event-stream; charset=utf-8")
            events = [json.loads(e.removeprefix("data: ")) for e in data.decode().split("\n\n")[:-1]]
            self.assertEqual({e["type"] for e in events[:-1]}, {"transcript.text.delta"})
            self.assertGreater(len(events), 10)
            done = events[-1]
            self.assertEqual((done["type"], done["text"]), ("transcript.text.done", plain["text"]))
            self.assertEqual("".join(e["delta"] for e in events[:-1]), plain["text"])
            self.assertEqual({k: v for k, v in done["usage"].items() if "input" not in k}, {k: v for k, v in plain["usage"].items() if "input" not in k})
            if fields:
                self.assertEqual(done["logprobs"], plain["logprobs"])
                told = [t for e in events[:-1] for t in e["logprobs"]]
                self.assertEqual(told, done["logprobs"][:len(told)])
                self.assertLess(max(t["logprob"] for t in told), 0)
                self.assertEqual({tuple(sorted(t)) for t in told}, {("bytes", "logprob", "token")})
            else:
                self.assertNotIn("logprobs", done)

    def test_long_and_silent(self):
        long = self.voice * 22  # 40 s with hardly a pause
        r = self.whole(long, ("response_format", "verbose_json"), ("language", "en"))
        self.assertGreater(len(r["segments"]), 1)
        for a, b in zip(r["segments"], r["segments"][1:]):
            self.assertLessEqual(a["end"], b["start"])
        self.assertLessEqual(max(s["end"] - s["start"] for s in r["segments"]), 30)
        self.assertGreater(sum(s["end"] - s["start"] for s in r["segments"]), 30)
        short = self.whole([0] * 5 * RATE, ("response_format", "verbose_json"))["segments"]
        self.assertEqual([(s["start"], s["end"], s["no_speech_prob"]) for s in short], [(0, 5, 1)])
        for name, empty in [("srt", b""), ("vtt", b"WEBVTT\n\n"), ("text", b"\n")]:
            self.assertEqual(self.send([0] * 40 * RATE, ("response_format", name))[1], empty)
        self.assertEqual(self.whole([0] * 40 * RATE, ("response_format", "verbose_json"))["segments"], [])

    def test_pauses_as_asked(self):
        count = lambda *fields: len(self.whole(self.three, ("response_format", "verbose_json"), ("language", "en"), *fields)["segments"])
        self.assertEqual(count(("chunking_strategy", "auto")), 3)
        self.assertEqual(count(("chunking_strategy[type]", "server_vad"), ("chunking_strategy[silence_duration_ms]", "3000")), 2)
        self.assertEqual(count(("chunking_strategy", json.dumps({"type": "server_vad", "silence_duration_ms": 6000, "threshold": 0.4, "prefix_padding_ms": 100}))), 1)

    def test_formats_of_sound(self):
        with open(os.path.join(ROOT, "models/media/question.ogg"), "rb") as f:
            data = f.read()
        for fields in [[("file", ("question.ogg", data))], [("file", ("", data)), ("temperature", "0.5"), ("stream", "false"), ("unknown", "x"), ("unknown", ("a", b"\0"))]]:
            got, _, answer = self.server.ask("POST", PATH, form(fields), HEAD)
            self.assertEqual(got, 200, answer)
            self.assertTrue(json.loads(answer)["text"])

    def test_refused(self):
        good = ("file", ("a.wav", wav(self.voice)))
        for fields, param, say in [([("model", "x")], "file", "is needed"), ([("file", ("a.wav", b""))], "file", "is empty"), ([good, good], "file", "once"),
                                   ([("file", ("a.wav", b"no sound at all" * 100))], "file", "sound"), ([good, ("response_format", "ass")], "response_format", "vtt"),
                                   ([good, ("response_format", "diarized_json")], "response_format", "vtt"), ([good, ("language", "xx")], "language", "Cantonese"),
                                   ([good, ("temperature", "1.5")], "temperature", "from 0 to 1"), ([good, ("temperature", "hot")], "temperature", "number"),
                                   ([good, ("temperature", "nan")], "temperature", "number"), ([good, ("stream", "maybe")], "stream", "true or false"),
                                   ([good, ("stream", "true"), ("response_format", "srt")], "stream", "json and text"), ([good, ("include[]", "words")], "include", "logprobs"),
                                   ([good, ("include[]", "logprobs"), ("response_format", "text")], "include", "json"),
                                   ([good, ("timestamp_granularities[]", "word")], "timestamp_granularities", "words"),
                                   ([good, ("chunking_strategy", "manual")], "chunking_strategy", "auto"), ([good, ("chunking_strategy[type]", "x")], "chunking_strategy.type", "server_vad"),
                                   ([good, ("chunking_strategy[threshold]", "2")], "chunking_strategy.threshold", "from 0 to 1"),
                                   ([good, ("prompt", "x" * 20000)], "prompt", "16384")]:
            with self.subTest(param=param, say=say):
                self.error(form(fields), param, say=say, path=PATH, headers=HEAD)
        self.error({"file": "x"}, None, say="multipart/form-data", path=PATH)
        odd = form([("odd", "x" * 20000), good]).replace(b'name="odd"', b'name="odd\xff"')
        self.error(odd, "odd\ufffd", say="UTF-8", path=PATH, headers=HEAD)
        self.error(form([good])[:-20], None, say="last boundary", path=PATH, headers=HEAD)
        self.error(form([("a", "b")] * 200 + [good]), None, say="more than 128 parts", path=PATH, headers=HEAD)
        self.server.json("GET", PATH, status=405)

    def test_cut_forms(self):
        whole = form([("model", "x"), ("file", ("a.wav", wav(self.voice[:800])))])
        for n in [*range(0, 300, 7), *range(300, len(whole), 211)]:
            self.error(whole[:n], None, path=PATH, headers=HEAD)

    def test_client_goes_away(self):
        body = form([("file", ("a.wav", wav(self.voice * 60))), ("stream", "true")])
        s = self.server.raw(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: {HEAD['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        self.assertTrue(s.recv(100))
        s.close()
        self.server.wait_until(lambda: self.server.metric("omni_engine_requests") == 0, 20)


class Limits(Case):
    FLAGS = ["--parallel", 2, "--max-audio-seconds", 3, "--ctx-size", 128]

    def test_limits(self):
        data = voice()
        e = self.error(form([("file", ("a.wav", wav(data * 2)))]), "file", path=PATH, headers=HEAD)
        self.assertEqual(e["code"], "limit_exceeded")
        self.assertIn("3 seconds", e["message"])
        got, _, answer = self.server.ask("POST", PATH, form([("file", ("a.wav", wav(data)))]), HEAD)
        self.assertEqual(got, 200, answer)


if __name__ == "__main__":
    unittest.main()
