#!/usr/bin/env python3
"""omni serve through LiteLLM, as its "openai" provider. usage: litellm_client.py OMNI (in an environment of scripts/agents-env.sh)"""
import asyncio
import base64
import json
import os
import sys
import unittest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no prices are fetched
import litellm
import openai
import pydantic

import harness
from test_answers import PICTURE, SOUND, data_url

WEATHER = {"type": "function", "function": {"name": "weather", "description": "of a town", "strict": True, "parameters": {
    "type": "object", "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 3}, "wet": {"type": "boolean"}}, "required": ["days", "wet"],
    "additionalProperties": False}}}


class Weather(pydantic.BaseModel):
    days: int
    wet: bool


class LiteLLM(harness.Case):
    FLAGS = ["--parallel", 4, "--api-key", "k", "--alias", "omni", "--max-body", 1 << 20]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.where = dict(model="openai/omni", api_base=f"http://127.0.0.1:{cls.server.port}/v1", api_key="k", max_retries=0, num_retries=0)

    def ask(self, content="What is this?", **more):
        messages = content if isinstance(content, list) and "role" in content[0] else [{"role": "user", "content": content}]
        return litellm.completion(**{**self.where, "messages": messages, "max_tokens": 6, "seed": 5, **more})

    def test_completion(self):
        whole = self.ask()
        self.assertEqual((whole.choices[0].finish_reason, whole.usage.completion_tokens), ("length", 6))
        chunks = list(self.ask(stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), whole.choices[0].message.content)
        self.assertEqual(litellm.stream_chunk_builder(chunks).choices[0].message.content, whole.choices[0].message.content)
        self.assertEqual([c.usage.completion_tokens for c in chunks if getattr(c, "usage", None)], [6])

        async def at_once():
            ask = {**self.where, "messages": [{"role": "user", "content": "What is this?"}], "max_tokens": 6, "seed": 5}
            return await asyncio.gather(*[litellm.acompletion(**ask) for _ in range(4)])
        self.assertEqual({r.choices[0].message.content for r in asyncio.run(at_once())}, {whole.choices[0].message.content})

    def test_tools(self):
        for stream in [False, True]:
            r = self.ask(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=200, stream=stream)
            r = litellm.stream_chunk_builder(list(r)) if stream else r
            call = r.choices[0].message.tool_calls[0]
            self.assertEqual((r.choices[0].finish_reason, call.function.name), ("tool_calls", "weather"))
            Weather.model_validate_json(call.function.arguments)
            again = self.ask([{"role": "user", "content": "x"}, r.choices[0].message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "rain"}], tools=[WEATHER])
            self.assertGreater(again.usage.prompt_tokens, 40)

    def test_schema(self):
        for form in [Weather, {"type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": WEATHER["function"]["parameters"]}}]:
            Weather.model_validate_json(self.ask(response_format=form, max_tokens=300).choices[0].message.content)
        self.assertIsInstance(json.loads(self.ask(response_format={"type": "json_object"}, max_tokens=600).choices[0].message.content), dict)

    def test_media(self):
        words = self.ask().usage.prompt_tokens
        seen = self.ask([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": data_url("image/jpeg", PICTURE)}}])
        heard = self.ask([{"type": "text", "text": "What is this?"}, {"type": "input_audio", "input_audio": {"data": data_url("", SOUND).split(",")[1], "format": "ogg"}}])
        self.assertGreater(seen.usage.prompt_tokens, words + 10)
        self.assertGreater(heard.usage.prompt_tokens, words + 10)

    def test_spoken_answer(self):
        ask = dict(modalities=["text", "audio"], audio={"voice": "ethan", "format": "wav"})
        audio = self.ask(**ask).choices[0].message.audio
        self.assertEqual(base64.b64decode(audio.data)[:4], b"RIFF")
        again = self.ask([{"role": "user", "content": "Hi"}, {"role": "assistant", "audio": {"id": audio.id}}, {"role": "user", "content": "Go on"}])
        self.assertGreater(again.usage.prompt_tokens, 15)
        ask["audio"]["format"] = "pcm16"
        deltas = [c.choices[0].delta.audio for c in self.ask(stream=True, **ask) if c.choices and getattr(c.choices[0].delta, "audio", None)]
        said = b"".join(base64.b64decode(d["data"]) for d in deltas if d.get("data"))
        self.assertEqual(said, base64.b64decode(audio.data)[44:])
        self.assertEqual("".join(d.get("transcript") or "" for d in deltas), audio.transcript)

    def test_speech(self):
        ask = {**self.where, "input": "Hello, my name is Omni."}
        for name, begins in {"mp3": b"\xff", "wav": b"RIFF", "flac": b"fLaC", "opus": b"OggS"}.items():
            self.assertTrue(litellm.speech(voice="ethan", response_format=name, **ask).content.startswith(begins), name)
        self.assertGreater(len(litellm.speech(voice="alloy", **ask).content), 1000)

    def test_transcription(self):
        with open(SOUND, "rb") as f:
            plain = litellm.transcription(file=f, language="en", **self.where)
        self.assertTrue(plain.text)
        with open(SOUND, "rb") as f:
            verbose = litellm.transcription(file=f, language="en", response_format="verbose_json", timestamp_granularities=["segment"], **self.where)
        self.assertEqual(verbose.text, plain.text)
        self.assertEqual(verbose.segments[0]["text"], plain.text)
        with open(SOUND, "rb") as f:
            self.assertIn(" --> ", litellm.transcription(file=f, language="en", response_format="srt", **self.where).text)

    def test_responses(self):
        ask = {**self.where, "input": [{"role": "user", "content": [{"type": "input_text", "text": "What is this?"},
                                                                   {"type": "input_image", "detail": "auto", "image_url": data_url("image/jpeg", PICTURE)}]}],
               "max_output_tokens": 20}  # it asks for 16 at least
        ask.pop("num_retries")
        r = litellm.responses(temperature=0, **ask)
        self.assertEqual((r.status, r.usage.output_tokens), ("incomplete", 20))
        text = r.output[0].content[0].text
        events = list(litellm.responses(temperature=0, stream=True, **ask))
        self.assertEqual("".join(e.delta for e in events if e.type == "response.output_text.delta"), text)
        self.assertEqual(events[-1].response.status, "incomplete")  # its event LiteLLM calls response.completed
        tool = {"type": "function", **WEATHER["function"]}
        call = litellm.responses(**{**ask, "tools": [tool], "tool_choice": "required", "max_output_tokens": 200}).output[0]
        Weather.model_validate_json(call.arguments)

    def test_errors(self):
        wrong = {**self.where, "api_key": "wrong"}
        with self.assertRaises(litellm.AuthenticationError):
            self.ask(**wrong)
        with self.assertRaises(litellm.BadRequestError) as e:
            self.ask(temperature=-1)
        self.assertIn("temperature", str(e.exception))
        with self.assertRaises(litellm.ContextWindowExceededError):
            self.ask("word " * 20000)
        with self.assertRaises(litellm.NotFoundError):
            self.ask(api_base=self.where["api_base"] + "/nothing")
        with self.assertRaises(litellm.BadRequestError):
            self.ask("Hi", tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "other"}})
        with self.assertRaises(litellm.APIError):  # 501
            litellm.embedding(input=["x"], **self.where)
        with self.assertRaises(openai.BadRequestError):  # it leaves this as it is
            litellm.speech(voice="nobody", input="Hi", **self.where)
        with self.assertRaises(openai.BadRequestError):  # and this
            litellm.transcription(file=("a.wav", b"no sound"), **self.where)
        with self.assertRaises(litellm.BadRequestError):
            list(self.ask(temperature=-1, stream=True))


if __name__ == "__main__":
    harness.OMNI = sys.argv.pop(1)
    result = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromTestCase(LiteLLM))
    print(f"{result.testsRun - len(result.failures) - len(result.errors)} passed, {len(result.failures) + len(result.errors)} failed")
    sys.exit(0 if result.wasSuccessful() and result.testsRun > 0 else 1)
