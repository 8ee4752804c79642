"""What is asked and what is answered."""
import base64
import json
import os
import struct
import subprocess
import threading
import unittest

import harness
from harness import Case, ROOT, TINY

PICTURE = os.path.join(ROOT, "models/media/picture.jpg")
SOUND = os.path.join(ROOT, "models/media/question.ogg")


def data_url(kind, path):
    with open(path, "rb") as f:
        return f"data:{kind};base64,{base64.b64encode(f.read()).decode()}"


class Answers(Case):
    def test_about_the_server(self):
        s = self.server
        self.assertEqual(s.json("GET", "/health"), {"status": "ok"})
        self.assertEqual(s.json("GET", "/ready"), {"status": "ready"})
        models = s.json("GET", "/v1/models")
        self.assertEqual(models["object"], "list")
        self.assertEqual([m["id"] for m in models["data"]], ["qwen3-omni-f16"])
        self.assertEqual({v["id"] for v in s.json("GET", "/v1/audio/voices")["voices"]}, {"aiden", "chelsie", "ethan"})
        self.assertEqual(s.json("GET", "/props")["total_slots"], 4)
        self.assertEqual(s.json("POST", "/v1/embeddings", {}, status=501)["error"]["code"], "not_supported")
        s.json("GET", "/slots", status=404)  # only with --slots
        s.json("GET", "/v1/chat/completions", status=405)
        s.json("POST", "/nothing", {}, status=404)

    def test_description(self):
        """Of everything in openapi.json there is an endpoint, and each method is the one that is answered."""
        paths = self.server.json("GET", "/openapi.json")["paths"]
        self.assertIn("/v1/chat/completions", paths)
        for path, methods in paths.items():
            for method in ["get", "post"]:
                status = self.server.ask(method.upper(), path, b"[]" if method == "post" else None)[0]
                if path == "/slots":  # only with --slots
                    self.assertEqual(status, 404)
                else:
                    self.assertEqual(status != 405, method in methods, (method, path, status))
                    self.assertNotEqual(status, 404, path)

    def test_tokens(self):
        text = "Hello, wörld 😀\n"
        ids = self.server.json("POST", "/tokenize", {"content": text})["tokens"]
        cli = subprocess.run([harness.OMNI, "tokenize", "-m", os.path.join(TINY, "qwen3-omni-f16.gguf"), "--ids", text], capture_output=True, check=True)
        self.assertEqual(ids, [int(i) for i in cli.stdout.split()])
        self.assertEqual(self.server.json("POST", "/detokenize", {"tokens": ids})["content"], text)
        self.error({"tokens": [1, -1]}, "tokens", path="/detokenize")
        self.error({"content": 3}, "content", path="/tokenize")

    def test_zero_characters(self):
        """An answer may hold U+0000 and come back as history, whole; other fields may not."""
        for text in ["a\0b", "\0", "\0\0x"]:
            ids = self.server.json("POST", "/tokenize", {"content": text})["tokens"]
            self.assertEqual(self.server.json("POST", "/detokenize", {"tokens": ids})["content"], text)
            counts = [self.server.chat([{"role": "user", "content": "x"}, {"role": "assistant", "content": c}, {"role": "user", "content": "y"}])["usage"]["prompt_tokens"]
                      for c in ("x", text, [{"type": "text", "text": text}])]
            self.assertEqual(counts[1:], [counts[0] - 1 + len(ids)] * 2)
        ask = {"messages": [{"role": "user", "content": "x"}]}
        for fields, param in [({"stop": "a\0"}, "stop"), ({"stop": ["a\0"]}, "stop"), ({"model": "\0"}, "model"), ({"audio": {"voice": "ethan\0"}}, "voice"),
                              ({"messages": [{"role": "user\0", "content": "x"}]}, "role")]:
            self.error({**ask, **fields}, param, say="u0000")
        self.error({"input": "a\0b"}, "input", path="/v1/audio/speech", say="u0000")

    def test_as_the_command_line(self):
        """Greedy answers are those of omni run."""
        cli = subprocess.run([harness.OMNI, "run", "-m", TINY, "-p", "What is this?", "--greedy", "-n", "6", "--image", PICTURE], capture_output=True, check=True)
        got = self.server.chat([{"type": "image_url", "image_url": {"url": data_url("image/jpeg", PICTURE)}}, {"type": "text", "text": "What is this?"}],
                               temperature=0)
        self.assertEqual(got["choices"][0]["message"]["content"], cli.stdout.decode()[:-1])
        self.assertEqual(got["choices"][0]["finish_reason"], "length")
        self.assertEqual(got["usage"]["completion_tokens"], 6)
        self.assertEqual(got["usage"]["total_tokens"], got["usage"]["prompt_tokens"] + 6)

    def test_stream_is_the_whole(self):
        for fields in [{}, {"logprobs": True, "top_logprobs": 3}, {"n": 3}, {"stop": ["a"]}]:
            whole = self.server.chat(**fields)
            chunks = self.server.stream(**fields, stream_options={"include_usage": True})
            n = fields.get("n", 1)
            text, roles, ends, tokens = [""] * n, [0] * n, [None] * n, [[] for _ in range(n)]
            for c in chunks[:-1]:
                self.assertEqual((c["object"], c["usage"], len(c["choices"])), ("chat.completion.chunk", None, 1))
                choice = c["choices"][0]
                i = choice["index"]
                text[i] += choice["delta"].get("content", "")
                roles[i] += choice["delta"].get("role") == "assistant"
                ends[i] = choice["finish_reason"] or ends[i]
                tokens[i] += (choice["logprobs"] or {}).get("content", [])
            self.assertEqual(text, [c["message"]["content"] for c in whole["choices"]], fields)
            self.assertEqual(ends, [c["finish_reason"] for c in whole["choices"]])
            self.assertEqual(roles, [1] * n)
            self.assertEqual(chunks[-1]["choices"], [])
            self.assertEqual(chunks[-1]["usage"]["completion_tokens"], whole["usage"]["completion_tokens"])
            for i in range(n):
                self.assertEqual(tokens[i], (whole["choices"][i]["logprobs"] or {}).get("content", []))
        self.assertEqual(len({c["message"]["content"] for c in self.server.chat(n=4, temperature=2, max_tokens=12)["choices"]}), 4)

    def test_logprobs(self):
        tokens = self.server.chat(logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(tokens), 6)
        for t in tokens:
            self.assertEqual(set(t), {"token", "logprob", "bytes", "top_logprobs"})
            self.assertEqual(len(t["top_logprobs"]), 2)
            self.assertLessEqual(t["logprob"], 0)
            self.assertEqual(bytes(t["bytes"]).decode(errors="replace"), t["token"])

    def test_speech(self):
        whole = self.server.chat("Hi", modalities=["text", "audio"], audio={"voice": "ethan", "format": "wav"})["choices"][0]["message"]
        wav = base64.b64decode(whole["audio"]["data"])
        self.assertEqual((wav[:4], wav[8:16], wav[36:40]), (b"RIFF", b"WAVEfmt ", b"data"))
        self.assertEqual(struct.unpack("<IHHIIHHxxxxI", wav[16:44]), (16, 1, 1, 24000, 48000, 2, 16, len(wav) - 44))
        self.assertEqual(whole["audio"]["transcript"], whole["content"])
        pieces, text, ids = b"", "", set()
        for c in self.server.stream("Hi", modalities=["text", "audio"], audio={"voice": "ethan", "format": "pcm16"}):
            audio = c["choices"][0]["delta"].get("audio", {})
            pieces += base64.b64decode(audio.get("data", ""))
            text += audio.get("transcript", "")
            ids |= {audio["id"]} if audio else set()
        self.assertEqual(pieces, wav[44:])
        self.assertEqual(text, whole["content"])
        self.assertEqual(len(ids), 1)
        other = self.server.chat("Hi", modalities=["text", "audio"], audio={"voice": "aiden", "format": "pcm16"})["choices"][0]["message"]
        self.assertNotEqual(base64.b64decode(other["audio"]["data"]), pieces)

    def test_what_was_said_earlier(self):
        first = self.server.chat("Hi", modalities=["text", "audio"], audio={"voice": "ethan"})["choices"][0]["message"]
        history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "audio": {"id": first["audio"]["id"]}}, {"role": "user", "content": "Go on"}]
        spelled = [history[0], {"role": "assistant", "content": first["content"]}, history[2]]
        self.assertEqual(self.server.chat(history)["choices"], self.server.chat(spelled)["choices"])
        history[1]["audio"]["id"] = "audio_nobody"
        self.error({"messages": history}, "messages[1].audio.id", say="nothing of that id")

    def test_media(self):
        sound = {"type": "input_audio", "input_audio": {"data": data_url("", SOUND).split(",")[1], "format": "ogg"}}
        one = self.server.chat([sound, {"type": "text", "text": "?"}])
        two = self.server.chat([{"type": "audio_url", "audio_url": {"url": data_url("audio/ogg", SOUND)}}, {"type": "text", "text": "?"}])
        self.assertEqual(one["choices"], two["choices"])
        self.assertGreater(one["usage"]["prompt_tokens"], 20)
        for url in ["file:///etc/passwd", "/etc/passwd", "https://127.0.0.1/a.png", "data:image/png;base64,AAAA"]:
            self.server.chat([{"type": "image_url", "image_url": {"url": url}}], status=400)

    def test_second_turn_is_known(self):
        picture = {"type": "image_url", "image_url": {"url": data_url("image/jpeg", PICTURE)}}
        for parts in [[], [picture]]:
            long = [{"role": "user", "content": [*parts, {"type": "text", "text": "word " * 600}]}]
            first = self.server.chat(long, temperature=0)
            again = long + [{"role": "assistant", "content": first["choices"][0]["message"]["content"]}, {"role": "user", "content": "And?"}]
            before = self.server.metric("omni_engine_rows_total")
            usage = self.server.chat(again)["usage"]
            self.assertLess(usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"], 130)
            self.assertLess(self.server.metric("omni_engine_rows_total") - before, 136)  # the answer's own as well
            self.assertGreater(usage["prompt_tokens"], 600)

    def test_times_are_counted(self):
        names = [f"omni_{who}_first_{what}_seconds_{kind}" for who in ["time_to", "engine"] for what in ["token", "audio"] for kind in ["count", "sum"]]
        self.server.wait_until(lambda: self.server.metric("omni_requests_in_flight") <= 1)
        before = {n: self.server.metric(n) for n in names}
        self.server.chat(temperature=0, modalities=["text", "audio"])
        rose = {n: self.server.metric(n) - before[n] for n in names}
        for what in ["token", "audio"]:
            whole, own = f"omni_time_to_first_{what}_seconds", f"omni_engine_first_{what}_seconds"
            self.assertEqual((rose[whole + "_count"], rose[own + "_count"]), (1, 1))
            self.assertGreater(rose[own + "_sum"], 0)
            self.assertLess(rose[own + "_sum"], rose[whole + "_sum"])

    def test_tools_and_fields(self):
        tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}}}
        with_tools = self.server.chat(tools=[tool], tool_choice="auto", parallel_tool_calls=False)["usage"]["prompt_tokens"]
        without = self.server.chat(tools=[tool], tool_choice="none")["usage"]["prompt_tokens"]
        self.assertGreater(with_tools, without + 20)
        # What clients send beside, and what nobody knows, is passed over.
        self.server.chat([{"role": "system", "content": "s", "name": "n"},
                          {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {}}], "name": "me"},
                          {"role": "assistant", "content": "a", "refusal": None, "annotations": []}, {"role": "user", "content": "b"}],
                         user="u", metadata={"a": "b"}, store=True, service_tier="auto", reasoning_effort="low", prompt_cache_key="k", unheard_of=[1],
                         presence_penalty=0.5, frequency_penalty=-0.5, logit_bias={"5": -100}, top_p=0.9, max_completion_tokens=6)

    def test_forms(self):
        schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "y"]}},
                  "required": ["a", "b"], "additionalProperties": False}
        named = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
        for seed in range(4):
            ask = dict(response_format=named, max_tokens=300, seed=seed)
            pieces = [e["choices"][0]["delta"].get("content") or "" for e in self.server.stream(**ask) if e["choices"]]
            for text in (self.server.chat(**ask)["choices"][0]["message"]["content"], "".join(pieces)):
                value = json.loads(text)
                self.assertEqual(sorted(value), ["a", "b"])
                self.assertTrue(isinstance(value["a"], int) and 0 <= value["a"] <= 99 and value["b"] in ("x", "y"), value)
        words = self.server.chat(grammar='root ::= "yes" | "no"')["choices"][0]
        self.assertIn(words["message"]["content"], ("yes", "no"))
        self.assertEqual(words["finish_reason"], "stop")
        tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in ("f", "g")]
        for choice, names in (("required", ("f", "g")), ({"type": "function", "function": {"name": "g"}}, ("g",))):
            answer = self.server.chat(tools=tools, tool_choice=choice, parallel_tool_calls=False, max_tokens=300)["choices"][0]
            self.assertEqual(answer["finish_reason"], "tool_calls")
            [call] = answer["message"]["tool_calls"]
            self.assertIn(call["function"]["name"], names)
            self.assertEqual(sorted(json.loads(call["function"]["arguments"])), ["a", "b"])
        for fields, param in (({"response_format": {"type": "xml"}}, "response_format"), ({"response_format": 5}, "response_format"),
                              ({"tool_choice": "maybe"}, "tool_choice"), ({"tool_choice": "required"}, "tool_choice"), ({"grammar": "root ::= ("}, None),
                              ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {}}}}}, None)):
            error = self.server.chat(status=400, **fields)["error"]
            if param:
                self.assertEqual(error["param"], param, error)

    def test_impossible_values(self):
        ask = {"messages": [{"role": "user", "content": "x"}]}
        for fields, param in [({"temperature": "hot"}, "temperature"), ({"top_p": 2}, "top_p"), ({"n": 0}, "n"), ({"n": 1.5}, "n"), ({"stream": "yes"}, "stream"),
                              ({"max_tokens": 0}, "max_tokens"), ({"logit_bias": {"a": 1}}, "logit_bias"), ({"stop": [1]}, "stop"), ({"seed": "x"}, "seed"),
                              ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"), ({"top_logprobs": 2}, "top_logprobs"), ({"messages": []}, "messages"),
                              ({"messages": "x"}, "messages"), ({"modalities": ["video"]}, "modalities"), ({"modalities": []}, "modalities"),
                              ({"modalities": ["audio"], "audio": {"voice": "nobody"}}, "audio.voice"),
                              ({"modalities": ["audio"], "audio": {"voice": "ethan", "format": "midi"}}, "audio.format"),
                              ({"parallel_tool_calls": 1}, "parallel_tool_calls"), ({"stream_options": {"include_usage": 1}}, "include_usage")]:
            with self.subTest(fields):
                self.error({**ask, **fields}, param)
        self.error({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]", say="role")
        self.error({"messages": [{"role": "user", "content": "word " * 9000}]}, None, say="context")
        for path, ask in [("chat/completions", {"messages": [{"role": "user", "content": "word " * 9000}]}), ("responses", {"input": "word " * 9000}),
                          ("completions", {"prompt": "word " * 9000})]:  # by this code, or these words, programs know what to shorten
            error = self.server.json("POST", "/v1/" + path, ask, status=400)["error"]
            self.assertEqual(error["code"], "context_length_exceeded")
            self.assertIn("This model's maximum context length is ", error["message"])

    def test_bodies_that_are_no_requests(self):
        for body in [b"", b"x", b"[]", b"3", b'{"messages": [', b'{"a": 1, "a": 2}', b"\xff\xfe", b"[" * 100000 + b"]" * 100000, b'{"messages":' * 50000]:
            status, _, data = self.server.ask("POST", "/v1/chat/completions", body)
            self.assertEqual(status, 400, body[:20])
            self.assertEqual(json.loads(data)["error"]["type"], "invalid_request_error")

    def test_many_at_once(self):
        """Answers of many that come together are those given alone."""
        asks = [{"content": f"Question {i}", "temperature": 1.0, "seed": i, "max_tokens": 4 + i % 7} for i in range(24)]
        alone = [self.server.chat(**a)["choices"] for a in asks]
        got = [None] * len(asks)

        def one(i):
            got[i] = self.server.chat(**asks[i])["choices"]
        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(asks))]
        for t in threads:
            t.start()
        for t in threads:
            t.join(harness.LONG)
        self.assertEqual(got, alone)


if __name__ == "__main__":
    unittest.main()
