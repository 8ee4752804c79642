"""/v1/completions and /v1/responses against /v1/chat/completions, which test_answers.py checks against omni run."""
import json
import unittest

from harness import Case
from test_answers import PICTURE, SOUND, data_url

TOOL = {"type": "function", "name": "weather", "description": "of a place", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}


class Completions(Case):
    def ask(self, prompt="What is this?", status=200, **fields):
        return self.server.json("POST", "/v1/completions", {"model": "x", "prompt": prompt, "max_tokens": 6, "seed": 5, **fields}, status=status)

    def stream(self, path, body):
        status, head, data = self.server.ask("POST", path, {"stream": True, **body})
        self.assertEqual((status, head["Content-Type"]), (200, "text/event-stream; charset=utf-8"), data)
        return data.decode()

    def test_as_chat(self):
        for fields in ({}, {"temperature": 0}, {"n": 3}, {"stop": ["a"]}):
            chat, got = self.server.chat(**fields), self.ask(**fields)
            self.assertEqual([c["text"] for c in got["choices"]], [c["message"]["content"] for c in chat["choices"]])
            self.assertEqual([c["finish_reason"] for c in got["choices"]], [c["finish_reason"] for c in chat["choices"]])
            self.assertEqual(got["usage"]["total_tokens"], chat["usage"]["total_tokens"])
        self.assertEqual(got["object"], "text_completion")

    def test_prompts(self):
        got = self.ask(["One?", "Two?"], n=2)
        self.assertEqual([c["index"] for c in got["choices"]], [0, 1, 2, 3])
        for i, q in enumerate(["One?", "Two?"]):
            chat = self.server.chat(q, n=2)
            self.assertEqual([c["text"] for c in got["choices"][2 * i:2 * i + 2]], [c["message"]["content"] for c in chat["choices"]])
        self.assertTrue(self.ask("Hé", echo=True)["choices"][0]["text"].startswith("Hé"))

    def test_default_length(self):
        body = {"prompt": "What is this?", "seed": 5, "logit_bias": {"0": 100}}
        self.assertEqual(self.server.json("POST", "/v1/completions", body)["usage"]["completion_tokens"], 16)

    def test_logprobs(self):
        got = self.ask(logprobs=2, echo=False)["choices"][0]
        chat = self.server.chat(logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
        lp = got["logprobs"]
        self.assertEqual(lp["token_logprobs"], [t["logprob"] for t in chat])
        self.assertEqual(lp["tokens"], [t["token"] for t in chat])
        self.assertEqual(lp["text_offset"][:2], [0, len(chat[0]["token"])])
        self.assertEqual([max(t.values()) for t in lp["top_logprobs"]], [t["top_logprobs"][0]["logprob"] for t in chat])

    def test_stream(self):
        whole = self.ask(n=2)
        text = self.stream("/v1/completions", {"prompt": "What is this?", "max_tokens": 6, "seed": 5, "n": 2, "stream_options": {"include_usage": True}})
        events = text.split("\n\n")
        self.assertEqual(events[-2:], ["data: [DONE]", ""])
        chunks = [json.loads(e[len("data: "):]) for e in events[:-2]]
        for choice in whole["choices"]:
            mine = [c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == choice["index"]]
            self.assertEqual("".join(c["text"] for c in mine), choice["text"])
            self.assertEqual(mine[-1]["finish_reason"], choice["finish_reason"])
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], whole["usage"]["completion_tokens"])

    def test_refused(self):
        path = "/v1/completions"
        for fields, param in (({"prompt": [1, 2]}, "prompt"), ({"prompt": []}, "prompt"), ({}, "prompt"), ({"prompt": "x", "suffix": "y"}, "suffix"),
                              ({"prompt": "x", "logprobs": 21}, "logprobs"), ({"prompt": "x", "logprobs": True}, "logprobs"),
                              ({"prompt": "x", "echo": True, "logprobs": 1}, "echo"), ({"prompt": "x", "best_of": 3}, "best_of"),
                              ({"prompt": "x", "max_tokens": 0}, "max_tokens"), ({"prompt": "x", "temperature": -1}, "temperature"),
                              ({"prompt": ["x"] * 100, "n": 2}, "n")):
            self.error(fields, param, path=path)


class Responses(Case):
    def ask(self, input="What is this?", status=200, **fields):
        return self.server.json("POST", "/v1/responses", {"model": "x", "input": input, "max_output_tokens": 6, "seed": 5, **fields}, status=status)

    def events(self, input="What is this?", **fields):
        status, head, data = self.server.ask("POST", "/v1/responses", {"input": input, "max_output_tokens": 6, "seed": 5, "stream": True, **fields})
        self.assertEqual((status, head["Content-Type"]), (200, "text/event-stream; charset=utf-8"), data)
        out = []
        for block in data.decode().split("\n\n")[:-1]:
            name, value = block.split("\n")
            out.append(json.loads(value[len("data: "):]))
            self.assertEqual(name, "event: " + out[-1]["type"])
        self.assertEqual([e["sequence_number"] for e in out], list(range(len(out))))
        return out

    def text(self, response):
        return "".join(p["text"] for o in response["output"] if o["type"] == "message" for p in o["content"])

    def test_as_chat(self):
        r, chat = self.ask(), self.server.chat()
        self.assertEqual(self.text(r), chat["choices"][0]["message"]["content"])
        self.assertEqual((r["object"], r["status"], r["incomplete_details"]), ("response", "incomplete", {"reason": "max_output_tokens"}))
        self.assertEqual(r["usage"]["input_tokens"], chat["usage"]["prompt_tokens"])
        self.assertEqual(r["usage"]["output_tokens"], 6)
        self.assertEqual((self.ask(temperature=0)["temperature"], r["temperature"], r["top_p"]), (0, 0.7, 0.8))
        end = self.server.json("POST", "/tokenize", {"content": "<|im_end|>", "parse_special": True})["tokens"][0]
        r = self.ask(logit_bias={str(end): 100})
        self.assertEqual((r["status"], r["output"][0]["status"], self.text(r)), ("completed", "completed", ""))

    def test_conversation(self):
        """Items are what messages are: the prompts have as many tokens, and the answers are equal."""
        picture, sound = data_url("image/jpeg", PICTURE), data_url("", SOUND).split(",")[1]
        items = [{"role": "user", "content": [{"type": "input_text", "text": "Look."}, {"type": "input_image", "image_url": picture, "detail": "low"},
                                              {"type": "input_audio", "input_audio": {"data": sound, "format": "ogg"}}]},
                 {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [{"type": "output_text", "text": "Yes.", "annotations": []}]},
                 {"role": "user", "content": "Weather?"},
                 {"type": "function_call", "call_id": "a", "name": "weather", "arguments": '{"place": "Oslo"}'},
                 {"type": "function_call", "call_id": "b", "name": "weather", "arguments": '{"place": "Bergen"}'},
                 {"type": "function_call_output", "call_id": "a", "output": "rain"},
                 {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "more rain"}]}]
        call = lambda i, place: {"id": i, "type": "function", "function": {"name": "weather", "arguments": json.dumps({"place": place})}}
        messages = [{"role": "system", "content": "Be brief."},
                    {"role": "user", "content": [{"type": "text", "text": "Look."}, {"type": "image_url", "image_url": {"url": picture, "detail": "low"}},
                                                 {"type": "input_audio", "input_audio": {"data": sound, "format": "ogg"}}]},
                    {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Weather?"},
                    {"role": "assistant", "content": None, "tool_calls": [call("a", "Oslo"), call("b", "Bergen")]},
                    {"role": "tool", "tool_call_id": "a", "content": "rain"}, {"role": "tool", "tool_call_id": "b", "content": "more rain"}]
        function = {k: v for k, v in TOOL.items() if k != "type"}
        r = self.ask(items, instructions="Be brief.", tools=[TOOL])
        chat = self.server.chat(messages, tools=[{"type": "function", "function": function}])
        self.assertEqual(r["usage"]["input_tokens"], chat["usage"]["prompt_tokens"])
        self.assertEqual(self.text(r), chat["choices"][0]["message"]["content"])

    def test_stream(self):
        whole = self.ask(top_logprobs=2)
        events = self.events(top_logprobs=2)
        kinds = [e["type"] for e in events]
        self.assertEqual(kinds[:4], ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"])
        self.assertEqual(kinds[-4:], ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete"])
        deltas = [e for e in events if e["type"] == "response.output_text.delta"]
        self.assertEqual("".join(d["delta"] for d in deltas), self.text(whole))
        self.assertEqual(len(whole["output"][0]["content"][0]["logprobs"]), 6)
        self.assertEqual(events[-1]["response"]["usage"], whole["usage"] | {"input_tokens_details": events[-1]["response"]["usage"]["input_tokens_details"]})
        last = events[-1]["response"]["output"][0]
        self.assertEqual(last["content"][0]["text"], self.text(whole))
        self.assertEqual({e["item_id"] for e in deltas}, {last["id"]})

    def test_refused(self):
        path = "/v1/responses"
        for fields, param in (({}, "input"), ({"input": []}, "input"), ({"input": 3}, "input"), ({"input": [3]}, "input[0]"),
                              ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
                              ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content[0]"),
                              ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]}, "input[0].content[0]"),
                              ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "/etc/passwd"}]}]}, "input"),
                              ({"input": [{"role": "robot", "content": "x"}]}, "input"), ({"input": [{"content": "x"}]}, "input"),
                              ({"input": [{"type": "function_call"}]}, "input"),
                              ({"input": "x", "instructions": 3}, "instructions"), ({"input": "x", "previous_response_id": "r"}, "previous_response_id"),
                              ({"input": "x", "conversation": "c"}, "conversation"), ({"input": "x", "background": True}, "background"),
                              ({"input": "x", "truncation": "auto"}, "truncation"), ({"input": "x", "tools": [{"type": "web_search"}]}, "tools"),
                              ({"input": "x", "tools": 3}, "tools"), ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
                              ({"input": "x", "top_logprobs": 21}, "top_logprobs"), ({"input": "x", "temperature": "hot"}, "temperature"),
                              ({"input": "x", "text": {"format": 3}}, "text.format"), ({"input": "x", "text": {"format": {"type": "poem"}}}, "text.format")):
            self.error(fields, param, path=path)

    def test_ignored(self):
        self.ask(store=True, metadata={"a": "b"}, user="me", reasoning={"effort": "low"}, service_tier="auto", include=[], prompt_cache_key="k", truncation="disabled")


if __name__ == "__main__":
    unittest.main()
