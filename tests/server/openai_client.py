#!/usr/bin/env python3
"""omni serve through OpenAI's own Python client: tests/server/openai_client.py OMNI. Needs the package openai (scripts/clients-env.sh)."""
import base64
import json
import os
import sys
import tempfile
import typing
import unittest

import openai
import pydantic
from openai.types.realtime import RealtimeServerEvent

import harness
from harness import Case
from test_answers import PICTURE, SOUND, data_url
from test_realtime import SILENCE, VOICE, b64


class Client(Case):
    FLAGS = ["--api-key", "k", "--parallel", 4]

    def setUp(self):
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.server.port}/v1", api_key="k", max_retries=0)
        self.create = lambda messages="What is this?", **f: self.client.chat.completions.create(
            model="x", messages=[{"role": "user", "content": messages}] if isinstance(messages, str) else messages, max_completion_tokens=6, seed=5, **f)

    def test_chat(self):
        r = self.create(logprobs=True, top_logprobs=2, n=2)
        self.assertEqual(len(r.choices), 2)
        self.assertEqual(r.choices[0].finish_reason, "length")
        self.assertEqual(len(r.choices[0].logprobs.content), 6)
        self.assertEqual(len(r.choices[1].logprobs.content[0].top_logprobs), 2)
        self.assertEqual(r.usage.completion_tokens, 12)

    def test_stream(self):
        whole = self.create().choices[0].message.content
        text, usage = "", None
        for c in self.create(stream=True, stream_options={"include_usage": True}):
            text += (c.choices[0].delta.content or "") if c.choices else ""
            usage = c.usage or usage
        self.assertEqual(text, whole)
        self.assertEqual(usage.completion_tokens, 6)

    def test_stream_helper(self):
        key = {"X-API-Key": "k"}
        word, end = (self.server.json("POST", "/tokenize", {"content": t, "parse_special": True}, key)["tokens"][0] for t in ["a", "<|im_end|>"])
        ask = dict(model="x", messages=[{"role": "user", "content": "Hi"}], seed=5)
        with self.client.chat.completions.stream(**ask, max_completion_tokens=6, logit_bias={word: 100}) as stream:
            self.assertIn("content.delta", [e.type for e in stream])
            self.assertRaises(openai.LengthFinishReasonError, stream.get_final_completion)
        with self.client.chat.completions.stream(**ask, logit_bias={end: 100}) as stream:
            self.assertEqual(stream.get_final_completion().choices[0].finish_reason, "stop")

    def test_speech(self):
        r = self.create("Hi", modalities=["text", "audio"], audio={"voice": "ethan", "format": "wav"})
        audio = r.choices[0].message.audio
        self.assertEqual(base64.b64decode(audio.data)[:4], b"RIFF")
        self.assertGreater(audio.expires_at, r.created)
        again = self.create([{"role": "user", "content": "Hi"}, {"role": "assistant", "audio": {"id": audio.id}}, {"role": "user", "content": "Go on"}])
        self.assertGreater(again.usage.prompt_tokens, r.usage.prompt_tokens)

    def test_speech_to_file(self):
        ask = dict(model="tts-1", voice="ethan", input="Hello, my name is Omni.", extra_body={"seed": 5})
        with tempfile.TemporaryDirectory() as folder:
            sounds = {}
            for name in ["mp3", "opus", "aac", "flac", "wav", "pcm"]:
                path = os.path.join(folder, "a." + name)
                with self.client.audio.speech.with_streaming_response.create(response_format=name, instructions="Calmly.", **ask) as r:
                    r.stream_to_file(path)
                with open(path, "rb") as f:
                    sounds[name] = f.read()
        self.assertEqual(sounds["wav"][44:], sounds["pcm"])
        self.assertEqual((sounds["opus"][:4], sounds["flac"][:4], sounds["mp3"][:1], sounds["aac"][:1]), (b"OggS", b"fLaC", b"\xff", b"\xff"))
        whole = self.client.audio.speech.create(response_format="pcm", **ask)
        self.assertEqual((whole.content, whole.response.headers["content-type"]), (sounds["pcm"], "audio/pcm"))
        slow = self.client.audio.speech.create(response_format="pcm", speed=0.5, **ask).content
        self.assertAlmostEqual(len(slow) / 48000, len(sounds["pcm"]) / 24000, delta=0.1)
        with self.assertRaises(openai.BadRequestError) as e:
            self.client.audio.speech.create(**{**ask, "voice": "nobody"})
        self.assertEqual(e.exception.param, "voice")

    def test_transcriptions(self):
        ask = dict(model="whisper-1", file=open(SOUND, "rb"))  # the client reads it from the start each time
        self.addCleanup(ask["file"].close)
        again = lambda: ask["file"].seek(0) or self.client.audio.transcriptions
        r = again().create(**ask, include=["logprobs"], temperature=0, language="en", prompt="Omni")
        self.assertTrue(r.text)
        self.assertEqual(r.usage.type, "tokens")
        self.assertGreater(r.usage.input_token_details.audio_tokens, 20)
        self.assertLess(r.logprobs[0].logprob, 0)
        v = again().create(**ask, response_format="verbose_json", timestamp_granularities=["segment"], language="en", prompt="Omni")
        self.assertIsInstance(v, openai.types.audio.TranscriptionVerbose)
        self.assertEqual((v.text, v.language, v.usage.type), (r.text, "english", "duration"))
        self.assertEqual(v.segments[0].text, v.text)
        self.assertAlmostEqual(v.segments[0].end, v.duration, delta=0.5)
        plain = again().create(**ask, response_format="text", language="en", prompt="Omni")
        self.assertEqual(plain, r.text + "\n")
        self.assertIn(" --> ", again().create(**ask, response_format="srt"))
        self.assertTrue(again().create(**ask, response_format="vtt").startswith("WEBVTT\n\n"))
        events = list(again().create(**ask, stream=True, language="en", prompt="Omni", chunking_strategy={"type": "server_vad", "threshold": 0.5}))
        self.assertEqual("".join(e.delta for e in events if e.type == "transcript.text.delta"), r.text)
        self.assertEqual((events[-1].type, events[-1].text), ("transcript.text.done", r.text))
        ask["file"].seek(0)
        t = self.client.audio.translations.create(**ask, response_format="verbose_json")
        self.assertEqual((t.language, len(t.segments)), ("english", 1))
        for more, param in [({"timestamp_granularities": ["word"], "response_format": "verbose_json"}, "timestamp_granularities"), ({"language": "tlh"}, "language")]:
            with self.assertRaises(openai.BadRequestError) as e:
                again().create(**ask, **more)
            self.assertEqual(e.exception.param, param)

    def test_speech_in_pieces(self):
        ask = dict(model="tts-1", voice="ethan", input="Hello, my name is Omni.", response_format="pcm", extra_body={"seed": 5})
        whole = self.client.audio.speech.create(**ask).content
        with self.client.audio.speech.with_streaming_response.create(**ask) as r:
            pieces = list(r.iter_bytes())
        self.assertEqual(b"".join(pieces), whole)
        self.assertGreater(len(pieces), 1)
        with self.client.audio.speech.with_streaming_response.create(stream_format="sse", **ask) as r:
            events = [json.loads(line.removeprefix("data: ")) for line in r.iter_lines() if line]
        self.assertEqual(b"".join(base64.b64decode(e["audio"]) for e in events[:-1]), whole)
        self.assertEqual(events[-1]["type"], "speech.audio.done")

    def test_sound_formats_of_chat(self):
        for name, begins in {"wav": b"RIFF", "mp3": b"\xff", "flac": b"fLaC", "opus": b"OggS", "aac": b"\xff"}.items():
            r = self.create("Hi", modalities=["text", "audio"], audio={"voice": "ethan", "format": name})
            self.assertTrue(base64.b64decode(r.choices[0].message.audio.data).startswith(begins), name)

    def test_media(self):
        sound = data_url("", SOUND).split(",")[1]
        r = self.create([{"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": data_url("image/jpeg", PICTURE)}},
                                                      {"type": "input_audio", "input_audio": {"data": sound, "format": "ogg"}}]}])
        self.assertGreater(r.usage.prompt_tokens, 50)

    def test_forms(self):
        class Weather(pydantic.BaseModel):
            place: typing.Literal["Oslo", "Rome"]
            degrees: typing.Optional[int]
            hours: list[bool]

        ask = dict(model="x", messages=[{"role": "user", "content": "Hi"}], seed=5, max_completion_tokens=900)
        bias = {"logit_bias": {self.server.json("POST", "/tokenize", {"content": "]"}, {"X-API-Key": "k"})["tokens"][0]: 5}}
        parsed = self.client.chat.completions.parse(response_format=Weather, **ask, **bias).choices[0].message.parsed
        self.assertIsInstance(parsed, Weather)
        tool = openai.pydantic_function_tool(Weather)
        choice = self.client.chat.completions.parse(tools=[tool], tool_choice="required", parallel_tool_calls=False, **ask, **bias).choices[0]
        self.assertIsInstance(choice.message.tool_calls[0].function.parsed_arguments, Weather)
        self.assertEqual(choice.finish_reason, "tool_calls")
        answer = self.client.responses.parse(model="x", input="Hi", text_format=Weather, max_output_tokens=900)
        self.assertIsInstance(answer.output_parsed, Weather)

    def test_tools(self):
        tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}}
        r = self.create([{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": json.dumps({"place": "Oslo"})}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"}], tools=[tool])
        self.assertGreater(r.usage.prompt_tokens, 40)

    def test_completions(self):
        ask = dict(model="x", prompt="What is this?", max_tokens=6, seed=5)
        r = self.client.completions.create(**ask, n=2, logprobs=2)
        self.assertEqual(len(r.choices), 2)
        self.assertEqual(len(r.choices[0].logprobs.token_logprobs), 6)
        self.assertEqual("".join(c.choices[0].text for c in self.client.completions.create(**ask, stream=True)), r.choices[0].text)

    def test_responses(self):
        ask = dict(model="x", input=[{"role": "user", "content": [{"type": "input_text", "text": "What is this?"},
                                                                  {"type": "input_image", "detail": "auto", "image_url": data_url("image/jpeg", PICTURE)}]}],
                   max_output_tokens=6, extra_body={"seed": 5})
        r = self.client.responses.create(**ask, instructions="Be brief.", temperature=0.5)
        self.assertEqual((r.status, r.incomplete_details.reason, r.temperature), ("incomplete", "max_output_tokens", 0.5))
        self.assertEqual(r.usage.output_tokens, 6)
        self.assertTrue(r.output_text)
        again = self.client.responses.create(model="x", input=[*ask["input"], *[o.model_dump() for o in r.output], {"role": "user", "content": "Go on"}])
        self.assertGreater(again.usage.input_tokens, r.usage.input_tokens)
        with self.client.responses.stream(**ask) as stream:
            text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        self.assertEqual(text, self.client.responses.create(**ask).output_text)
        kinds = [e.type for e in self.client.responses.create(**ask, stream=True)]
        self.assertEqual((kinds[0], kinds[-1]), ("response.created", "response.incomplete"))
        with self.assertRaises(openai.BadRequestError) as e:
            self.client.responses.create(model="x", input="x", previous_response_id="resp_1")
        self.assertEqual(e.exception.param, "previous_response_id")

    def test_realtime(self):
        """Text, then a spoken turn that is interrupted, then a function; every event is what the client's own types say."""
        checks = pydantic.TypeAdapter(RealtimeServerEvent)
        end = self.server.json("POST", "/tokenize", {"content": "<|im_end|>", "parse_special": True}, {"X-API-Key": "k"})["tokens"][0]

        def until(connection, kind):
            events = []
            while not events or events[-1].type != kind:
                events.append(connection.recv())
                checks.validate_python(events[-1].to_dict(mode="json"))
                self.assertNotEqual(events[-1].type, "error", events[-1])
            return events

        with self.client.realtime.connect(model="x") as c:
            until(c, "session.created")
            c.session.update(session={"type": "realtime", "output_modalities": ["text"], "max_output_tokens": 6, "seed": 5})
            until(c, "session.updated")
            c.conversation.item.create(item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is this?"}]})
            c.response.create()
            events = until(c, "response.done")
            text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
            self.assertEqual(text, self.create().choices[0].message.content)
            self.assertEqual(events[-1].response.output[0].content[0].text, text)
            self.assertEqual(events[-1].response.usage.output_token_details.text_tokens, 6)

            c.session.update(session={"type": "realtime", "output_modalities": ["audio"], "max_output_tokens": "inf", "logit_bias": {str(end): -100}, "audio": {
                "input": {"turn_detection": {"type": "server_vad"}, "transcription": {"model": "x"}}, "output": {"voice": "ethan"}}})
            until(c, "session.updated")
            c.input_audio_buffer.append(audio=b64(SILENCE + VOICE + SILENCE))
            events = until(c, "response.output_audio.delta")
            self.assertIn("input_audio_buffer.committed", [e.type for e in events])
            c.input_audio_buffer.append(audio=b64(VOICE))
            until(c, "input_audio_buffer.speech_started")
            events = until(c, "response.done")
            self.assertNotIn("response.output_audio.delta", [e.type for e in events])
            self.assertEqual(events[-1].response.status_details.reason, "turn_detected")
            item = events[-1].response.output[0]
            c.conversation.item.truncate(item_id=item.id, content_index=0, audio_end_ms=20)
            until(c, "conversation.item.truncated")
            c.conversation.item.retrieve(item_id=item.id)
            kept = until(c, "conversation.item.retrieved")[-1].item.content[0].transcript
            self.assertTrue(item.content[0].transcript.startswith(kept))
            c.input_audio_buffer.clear()
            until(c, "input_audio_buffer.cleared")

            c.response.create(response={"output_modalities": ["text"], "max_output_tokens": 300, "logit_bias": {}, "tool_choice": "required", "parallel_tool_calls": False, "tools": [
                {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {"wet": {"type": "boolean"}}, "required": ["wet"],
                                                                       "additionalProperties": False}}]})
            call = until(c, "response.function_call_arguments.done")[-1]
            self.assertIsInstance(json.loads(call.arguments)["wet"], bool)
            until(c, "response.done")
            c.conversation.item.create(item={"type": "function_call_output", "call_id": call.call_id, "output": "no"})
            until(c, "conversation.item.done")
            c.response.cancel()
            while (e := c.recv()).type != "error":
                pass  # what was said is still being transcribed
            checks.validate_python(e.to_dict(mode="json"))
            self.assertEqual(e.error.code, "response_cancel_not_active")

    def test_realtime_transcription(self):
        with self.client.realtime.connect(extra_query={"intent": "transcription"}) as c:
            self.assertEqual(c.recv().session.type, "transcription")
            c.input_audio_buffer.append(audio=b64(SILENCE + VOICE + SILENCE))
            while (e := c.recv()).type != "conversation.item.input_audio_transcription.completed":
                self.assertNotEqual(e.type, "error")
            self.assertEqual(e.usage.type, "tokens")

    def test_realtime_without_a_key(self):
        with self.assertRaises(Exception) as e:
            with openai.OpenAI(base_url=str(self.client.base_url), api_key="wrong").realtime.connect(model="x"):
                pass
        self.assertIn("401", str(e.exception))

    def test_models(self):
        models = list(self.client.models.list())
        self.assertEqual([m.id for m in models], ["qwen3-omni-f16"])

    def test_errors(self):
        with self.assertRaises(openai.AuthenticationError):
            openai.OpenAI(base_url=str(self.client.base_url), api_key="wrong", max_retries=0).models.list()
        with self.assertRaises(openai.BadRequestError) as e:
            self.create(temperature=-1)
        self.assertEqual(e.exception.param, "temperature")
        with self.assertRaises(openai.NotFoundError):
            self.client.files.list()
        with self.assertRaises(openai.InternalServerError):  # 501
            self.client.embeddings.create(model="x", input="y")


if __name__ == "__main__":
    harness.OMNI = sys.argv.pop(1)
    result = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromTestCase(Client))
    print(f"{result.testsRun - len(result.failures) - len(result.errors)} passed, {len(result.failures) + len(result.errors)} failed")
    sys.exit(0 if result.wasSuccessful() and result.testsRun > 0 else 1)
