#!/usr/bin/env python3
"""omni serve through the OpenAI plugin of LiveKit's agents, without a room. usage: livekit_client.py OMNI (in an environment of scripts/agents-env.sh)"""
import asyncio
import sys
import unittest

import aiohttp
from livekit import rtc
from livekit.agents import APIStatusError, llm
from livekit.agents.utils import http_context
from livekit.plugins import openai
from openai.types import realtime

import harness
from test_answers import PICTURE, data_url
from test_realtime import SILENCE, VOICE

LATEST = 60  # seconds that one answer may take


def frames(pcm, rate=24000, ms=100):
    step = 2 * rate * ms // 1000
    return [rtc.AudioFrame(pcm[i:i + step].ljust(step, b"\0"), rate, 1, step // 2) for i in range(0, len(pcm), step)]


@llm.function_tool
async def weather(days: int, wet: bool) -> str:
    """Of a town."""
    return "rain"


class LiveKit(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server("--parallel", 4, "--api-key", "k", "--alias", "omni")
        cls.where = dict(model="omni", base_url=f"http://127.0.0.1:{cls.server.port}/v1", api_key="k")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, "".join(cls.server.lines)

    async def asyncSetUp(self):
        self.web = await self.enterAsyncContext(aiohttp.ClientSession())

    def context(self, *content, role="user"):
        c = llm.ChatContext.empty()
        c.add_message(role=role, content=list(content))
        return c

    async def test_llm(self):
        model = openai.LLM(**self.where, max_completion_tokens=6, temperature=0)
        chunks = [c async for c in model.chat(chat_ctx=self.context("What is this?"))]
        text = "".join(c.delta.content or "" for c in chunks if c.delta)
        self.assertEqual(text, self.server.chat("What is this?", temperature=0, headers={"X-API-Key": "k"})["choices"][0]["message"]["content"])
        self.assertEqual([c.usage.completion_tokens for c in chunks if c.usage], [6])
        seen = [c async for c in model.chat(chat_ctx=self.context("What is this?", llm.ImageContent(image=data_url("image/jpeg", PICTURE))))]
        self.assertGreater(seen[-1].usage.prompt_tokens, chunks[-1].usage.prompt_tokens + 10)
        await model.aclose()

    async def test_llm_tools(self):
        model = openai.LLM(**self.where, max_completion_tokens=200, parallel_tool_calls=False)
        calls = [call async for c in model.chat(chat_ctx=self.context("Will it rain?"), tools=[weather], tool_choice="required") if c.delta for call in c.delta.tool_calls]
        self.assertEqual([c.name for c in calls], ["weather"])
        c = self.context("Will it rain?")
        c.items.append(llm.FunctionCall(call_id=calls[0].call_id, name="weather", arguments=calls[0].arguments))
        c.items.append(llm.FunctionCallOutput(call_id=calls[0].call_id, name="weather", output="rain", is_error=False))
        self.assertTrue([c async for c in model.chat(chat_ctx=c, tools=[weather])])
        await model.aclose()

    async def test_llm_errors(self):
        model = openai.LLM(**{**self.where, "api_key": "wrong"})
        with self.assertRaises(APIStatusError) as e:
            async for _ in model.chat(chat_ctx=self.context("Hi")):
                pass
        self.assertEqual((e.exception.status_code, e.exception.retryable), (401, False))
        await model.aclose()

    async def test_tts(self):
        for more in [{"voice": "ethan"}, {}, {"voice": "ethan", "response_format": "pcm", "speed": 1.5}]:
            speech = openai.TTS(**self.where, **more)
            async with speech.synthesize("Hello, my name is Omni.") as stream:
                sound = await stream.collect()
            self.assertEqual(sound.sample_rate, 24000)
            self.assertGreater(sound.duration, 0.1)
            await speech.aclose()

    async def test_stt(self):
        heard = openai.STT(**self.where, language="en", use_realtime=False)
        event = await heard.recognize(frames(VOICE))
        self.assertEqual(event.type, "final_transcript")
        self.assertTrue(event.alternatives[0].text)
        await heard.aclose()

    async def test_stt_streaming(self):
        heard = openai.STT(**self.where, language="en", use_realtime=True)
        kinds = []
        async with http_context.open(), heard.stream() as stream:
            async def push():
                for f in frames(SILENCE + VOICE + SILENCE + SILENCE):
                    stream.push_frame(f)
                    await asyncio.sleep(0.01)
            task = asyncio.create_task(push())
            async with asyncio.timeout(LATEST):
                async for e in stream:
                    kinds.append(e.type)
                    if e.type == "final_transcript":
                        break
            await task
        self.assertIn("start_of_speech", kinds)
        await heard.aclose()

    async def realtime(self, **more):
        model = openai.realtime.RealtimeModel(**self.where, http_session=self.web, **more)
        session = model.session()
        errors = []
        session.on("error", errors.append)
        self.addAsyncCleanup(model.aclose)
        self.addAsyncCleanup(session.aclose)
        return model, session, errors

    async def answer(self, generation):
        """The words and seconds of an answer, and its calls."""
        text, seconds = "", 0
        async for message in generation.message_stream:
            async for piece in message.text_stream:
                text += piece
            async for f in message.audio_stream:
                seconds += f.duration
        return text, seconds, [c async for c in generation.function_stream]

    async def test_realtime_asked(self):
        """With nothing but defaults, and a conversation that is brought, changed and brought again."""
        model, session, errors = await self.realtime(max_response_output_tokens=20)
        await session.update_instructions("Be brief.")
        c = llm.ChatContext.empty()
        c.add_message(role="user", content="Hello!")
        c.add_message(role="assistant", content="Hello.")
        c.add_message(role="user", content="What is this?")
        await session.update_chat_ctx(c)
        self.assertEqual([i.text_content for i in session.chat_ctx.items], ["Hello!", "Hello.", "What is this?"])
        async with asyncio.timeout(LATEST):
            text, seconds, _ = await self.answer(await session.generate_reply())
            self.assertGreater(seconds, 0.1)
            text, seconds, _ = await self.answer(await session.generate_reply(instructions="Say hello."))
        self.assertGreater(seconds, 0.1)
        c = session.chat_ctx.copy()
        c.items.pop(0)
        await session.update_chat_ctx(c)
        self.assertEqual(session.chat_ctx.items[0].text_content, "Hello.")
        self.assertEqual(errors, [])

    async def test_realtime_spoken(self):
        """A turn that the server finds, and an answer that the next one interrupts."""
        end = self.server.json("POST", "/tokenize", {"content": "<|im_end|>", "parse_special": True}, {"X-API-Key": "k"})["tokens"][0]
        model, session, errors = await self.realtime(turn_detection=realtime.realtime_audio_input_turn_detection.ServerVad(type="server_vad"), voice="ethan",
                                                     input_audio_transcription=realtime.AudioTranscription(model="omni"))
        got = {name: asyncio.Queue() for name in ["generation_created", "input_speech_started", "input_speech_stopped", "input_audio_transcription_completed"]}
        for name, queue in got.items():
            session.on(name, queue.put_nowait)
        session.send_event({"type": "session.update", "session": {"type": "realtime", "logit_bias": {str(end): -100}}})
        async with asyncio.timeout(LATEST):
            for f in frames(SILENCE + VOICE + SILENCE):
                session.push_audio(f)
            await got["input_speech_started"].get()
            self.assertTrue((await got["input_speech_stopped"].get()).user_transcription_enabled)
            generation = await got["generation_created"].get()
            message = await anext(generation.message_stream)
            await anext(message.audio_stream)
            for f in frames(VOICE):
                session.push_audio(f)
            await got["input_speech_started"].get()
            async for _ in message.audio_stream:
                pass  # it ends
            session.truncate(message_id=message.message_id, modalities=["audio", "text"], audio_end_ms=20)
            self.assertFalse((await got["input_audio_transcription_completed"].get()).item_id == message.message_id)
            session.clear_audio()
            session.interrupt()
        self.assertEqual(errors, [])

    async def test_realtime_tools(self):
        model, session, errors = await self.realtime(modalities=["text"], tool_choice="required", max_response_output_tokens=300)
        await session.update_tools([weather])
        c = self.context("Will it rain?")
        await session.update_chat_ctx(c)
        async with asyncio.timeout(LATEST):
            _, _, calls = await self.answer(await session.generate_reply())
            self.assertEqual({c.name for c in calls}, {"weather"})  # it cannot ask for one alone
            c = session.chat_ctx.copy()
            c.items += [llm.FunctionCallOutput(call_id=call.call_id, name="weather", output="rain", is_error=False) for call in calls]
            await session.update_chat_ctx(c)
            session.update_options(tool_choice="none")
            text, _, calls = await self.answer(await session.generate_reply())
        self.assertEqual(calls, [])
        self.assertTrue(text)
        self.assertEqual(errors, [])


if __name__ == "__main__":
    harness.OMNI = sys.argv.pop(1)
    result = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromTestCase(LiveKit))
    print(f"{result.testsRun - len(result.failures) - len(result.errors)} passed, {len(result.failures) + len(result.errors)} failed")
    sys.exit(0 if result.wasSuccessful() and result.testsRun > 0 else 1)
