"""Requests of less than 100 KB that stand for a lot, at every door where others can knock: each costs little, or is refused in words."""
import base64
import json
import os
import sys
import time

import harness
from harness import Case

sys.path.insert(0, os.path.join(harness.ROOT, "tests"))
import bombs  # noqa: E402  the media of tests/bombs.py

MOST = 100_000  # bytes of a request
SECONDS, MEGABYTES = 4, 1024  # two seconds where the machine does nothing else
ASK = {"model": "x", "max_tokens": 16, "seed": 1}


def grammar(text):
    return {**ASK, "messages": [{"role": "user", "content": "x"}], "grammar": text}


def schema(value):
    return {**ASK, "messages": [{"role": "user", "content": "x"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": value}}}


def deep(n):
    s = {"type": "integer"}
    for _ in range(n):
        s = {"type": "object", "properties": {"a": s}}
    return s


def doubling(n, of):
    return {"$defs": {**{f"d{i}": of({"$ref": f"#/$defs/d{i + 1}"}) for i in range(n)}, f"d{n}": {"type": "null"}}, "$ref": "#/$defs/d0"}


def form(name, data, *fields):
    parts = [f'--B\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in (("model", "x"), *fields)]
    parts.append(f'--B\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n--B--\r\n")
    return b"".join(parts)


class Costs(Case):
    FLAGS = ["--parallel", 4, "--threads", 1]

    def spent(self):
        with open(f"/proc/{self.server.process.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        with open(f"/proc/{self.server.process.pid}/status") as f:
            peak = next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), peak / 1024

    def sanitized(self):
        with open(f"/proc/{self.server.process.pid}/maps") as f:
            return "san.so" in f.read()

    def costs(self, name, path, body, headers=None, answers=(200, 400)):
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        self.assertLess(len(data), MOST, name)
        before, began = self.spent(), time.monotonic()
        status, _, out = self.server.ask("POST", path, data, headers)
        after = self.spent()
        self.assertIn(status, answers, (name, out[:300]))
        if status != 200:
            self.assertGreater(len(json.loads(out)["error"]["message"]), 20, name)
        if not self.sanitized():
            self.assertLess(after[0] - before[0], SECONDS, (name, time.monotonic() - began, out[:300]))
            self.assertLess(after[1] - before[1], MEGABYTES, name)

    def test_media(self):
        for name in ("scans.jpg", "bilevel.png", "solid.gif", "solid.webp", "runs.bmp", "few-specks.gif", "same-sample.mp4", "channels.flac",
                     "channels-short.flac", "claims.wav"):
            kind, make = bombs.made[name]
            data = make()
            text = base64.b64encode(data).decode()
            part = {"image": {"type": "image_url", "image_url": {"url": "data:image/png;base64," + text}}, "sound": {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}},
                    "video": {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + text}}}[kind]
            for times in {1, min(64, (MOST - 1000) // (len(text) + 100))}:
                self.costs(f"{name} {times} times", "/v1/chat/completions", {**ASK, "messages": [{"role": "user", "content": [part] * times}]})
            if kind != "image" and len(data) < MOST - 1000:
                self.costs(f"{name} to write down", "/v1/audio/transcriptions", form(name, data), {"Content-Type": "multipart/form-data; boundary=B"})

    def test_an_hour_of_silence(self):
        data = bombs.flac(16000, 1, 850)
        for how in ("json", "verbose_json", "vtt"):
            self.costs(how, "/v1/audio/transcriptions", form("hour.flac", data, ("response_format", how)), {"Content-Type": "multipart/form-data; boundary=B"})

    def test_forms(self):
        for name, body in (("parts", b"".join(b'--B\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n\r\n' % i for i in range(1500)) + b"--B--\r\n"),
                           ("nearly boundaries", b"--B\r\n" + b"\r\n--" * 24000)):
            self.costs(name, "/v1/audio/transcriptions", body, {"Content-Type": "multipart/form-data; boundary=B"}, (400,))

    def test_grammars(self):
        for name, text in (("stars", "root ::= " + "(" * 150 + '"a"' + ")*" * 150), ("repeats", 'root ::= (("a"{0,1000}){0,1000}){0,1000}'),
                           ("alternatives", "root ::= " + " | ".join(f'"a{i}"' for i in range(7000))), ("optional", "root ::= " + '"a"? ' * 13000),
                           ("ambiguous", 'root ::= s\ns ::= "a" s | "a" s s | "a"'), ("tree", "root ::= r0\n" + "".join(f'r{i} ::= r{i + 1} r{i + 1} | "a"\n' for i in range(2500)) + 'r2500 ::= "a"'),
                           ("empty tree", "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(60)) + 'r60 ::= "a"?'),
                           ("a class", "root ::= [" + "".join(chr(0x4E00 + 2 * i) for i in range(9000)) + "]*"),
                           ("classes", "root ::= (" + " | ".join(f"[{chr(0x100 + i)}-\\U0010ffff]" for i in range(2000)) + ")*")):
            self.costs(name, "/v1/chat/completions", grammar(text))

    def test_schemas(self):
        for name, value in (("enum", {"enum": [f"v{i}" for i in range(8000)]}), ("properties", {"type": "object", "properties": {f"p{i}": {} for i in range(4000)}}),
                            ("long", {"type": "string", "minLength": 8192, "maxLength": 8192}),
                            ("lists", {"type": "array", "maxItems": 1000, "items": {"type": "array", "maxItems": 1000, "items": {"type": "array", "maxItems": 1000}}}),
                            ("pattern", {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"}), ("words", {"type": "string", "pattern": "^(" + "|".join(f"a{i}" for i in range(7000)) + ")$"}),
                            ("deep", deep(120)), ("references", doubling(60, lambda r: {"anyOf": [r, r]})),
                            ("objects", doubling(60, lambda r: {"type": "object", "properties": {"a": r, "b": r}})),
                            ("combinations", {"allOf": [{"anyOf": [{"properties": {f"p{i}": {"type": "integer"}}}, {"properties": {f"q{i}": {}}}]} for i in range(800)]}),
                            ("itself", {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]})):
            self.costs(name, "/v1/chat/completions", schema(value))
            if name in ("properties", "objects"):
                self.costs(name, "/v1/responses", {"model": "x", "input": "x", "max_output_tokens": 16, "text": {"format": {"type": "json_schema", "name": "x", "schema": value}}})

    def test_texts_and_lists(self):
        user = [{"role": "user", "content": "x"}]
        tools = [{"type": "function", "function": {"name": f"f{i}", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}} for i in range(700)]
        for name, path, body in (("one letter", "/tokenize", {"content": "a" * 99000}), ("marks", "/tokenize", {"content": "".join(chr(0x300 + i % 80) for i in range(16000))}),
                                 ("text", "/v1/chat/completions", {**ASK, "messages": [{"role": "user", "content": "a " * 49000}]}),
                                 ("turns", "/v1/chat/completions", {**ASK, "messages": user * 2400}), ("stops", "/v1/chat/completions", {**ASK, "messages": user, "stop": ["a" * 24000] * 4}),
                                 ("biases", "/v1/chat/completions", {**ASK, "messages": user, "logit_bias": {str(i): 1 for i in range(7000)}}),
                                 ("tools", "/v1/chat/completions", {**ASK, "messages": user, "tools": tools, "tool_choice": "required"}),
                                 ("items", "/v1/responses", {"model": "x", "input": user * 2500}), ("prompts", "/v1/completions", {"model": "x", "prompt": ["x"] * 19000}),
                                 ("speech", "/v1/audio/speech", {"model": "x", "voice": "chelsie", "input": "a" * 99000})):
            self.costs(name, path, body)
