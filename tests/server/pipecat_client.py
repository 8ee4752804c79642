#!/usr/bin/env python3
"""omni serve through Pipecat's services of OpenAI, in pipelines without sound hardware. usage: pipecat_client.py OMNI (in an environment of scripts/agents-env.sh)"""
import asyncio
import contextlib
import sys
import unittest

from loguru import logger

from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames import frames as f
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.workers.runner import WorkerRunner

import harness
from test_realtime import SILENCE, VOICE, wav

LATEST = 60  # seconds that one answer may take
logger.remove()
WEATHER = FunctionSchema(name="weather", description="of a town", properties={"wet": {"type": "boolean"}}, required=["wet"])


class Sink(FrameProcessor):
    """What leaves the pipeline."""

    def __init__(self):
        super().__init__()
        self.frames = asyncio.Queue()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        await self.frames.put(frame)
        await self.push_frame(frame, direction)

    async def until(self, kind, seen=None):
        """The next frame of a kind; all before it are added to seen."""
        async with asyncio.timeout(LATEST):
            while True:
                frame = await self.frames.get()
                if isinstance(frame, f.ErrorFrame):
                    raise AssertionError(frame.error)
                if seen is not None:
                    seen.append(frame)
                if isinstance(frame, kind):
                    return frame


class Pipecat(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server("--parallel", 4, "--api-key", "k", "--alias", "omni")
        cls.where = dict(api_key="k", base_url=f"http://127.0.0.1:{cls.server.port}/v1")
        cls.socket = dict(api_key="k", base_url=f"ws://127.0.0.1:{cls.server.port}/v1/realtime")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, "".join(cls.server.lines)

    @contextlib.asynccontextmanager
    async def pipeline(self, *processors):
        sink, up = Sink(), []
        worker = PipelineWorker(Pipeline([*processors, sink]), cancel_on_idle_timeout=False, enable_rtvi=False,
                                params=PipelineParams(audio_in_sample_rate=24000, audio_out_sample_rate=24000))
        started = asyncio.Event()

        @worker.event_handler("on_pipeline_started")
        async def on_started(worker, frame):
            started.set()

        @worker.event_handler("on_pipeline_error")
        async def on_error(worker, frame):
            up.append(frame.error)

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        running = asyncio.create_task(runner.run())
        async with asyncio.timeout(LATEST):
            await started.wait()
        try:
            yield worker, sink
        finally:
            await worker.cancel()
            await asyncio.wait_for(running, LATEST)
        self.assertEqual(up, [])

    async def hear(self, worker, pcm):
        for at in range(0, len(pcm), 4800):
            await worker.queue_frame(f.InputAudioRawFrame(audio=pcm[at:at + 4800], sample_rate=24000, num_channels=1))

    async def test_llm(self):
        model = OpenAILLMService(**self.where, settings=OpenAILLMService.Settings(model="omni", temperature=0.0, max_completion_tokens=6))
        context = LLMContext([{"role": "user", "content": "What is this?"}])
        async with self.pipeline(model) as (worker, sink):
            await worker.queue_frame(f.LLMContextFrame(context))
            seen = []
            await sink.until(f.LLMFullResponseEndFrame, seen)
        text = "".join(x.text for x in seen if isinstance(x, f.LLMTextFrame))
        self.assertEqual(text, self.server.chat("What is this?", temperature=0, headers={"X-API-Key": "k"})["choices"][0]["message"]["content"])

    async def test_llm_calls(self):
        model = OpenAILLMService(**self.where, settings=OpenAILLMService.Settings(model="omni", max_completion_tokens=100, extra={"parallel_tool_calls": False}))
        context = LLMContext([{"role": "user", "content": "Will it rain?"}], tools=ToolsSchema(standard_tools=[WEATHER]), tool_choice="required")
        asked, calls = asyncio.Event(), []

        async def weather(params):
            calls.append(params.arguments)
            context.set_tool_choice("none")
            await params.result_callback({"weather": "rain"})
            asked.set()
        model.register_function("weather", weather)
        pair = LLMContextAggregatorPair(context)
        async with self.pipeline(pair.user(), model, pair.assistant()) as (worker, sink):
            await worker.queue_frame(f.LLMRunFrame())
            async with asyncio.timeout(LATEST):
                await asked.wait()
                while not any(m.get("role") == "assistant" and m.get("content") for m in context.messages):
                    await asyncio.sleep(0.05)  # what it makes of the call's result
        self.assertIsInstance(calls[0]["wet"], bool)

    async def test_tts(self):
        """Its voices are OpenAI's alone."""
        for voice in ["alloy", "verse"]:
            async with self.pipeline(OpenAITTSService(**self.where, settings=OpenAITTSService.Settings(model="omni", voice=voice))) as (worker, sink):
                await worker.queue_frame(f.TTSSpeakFrame("Hello, my name is Omni."))
                seen = []
                await sink.until(f.TTSStoppedFrame, seen)
            self.assertGreater(sum(len(x.audio) for x in seen if isinstance(x, f.TTSAudioRawFrame)), 4800)

    async def test_stt(self):
        heard = OpenAISTTService(**self.where, settings=OpenAISTTService.Settings(model="omni"))
        got = [x async for x in heard.run_stt(wav(VOICE))]
        self.assertEqual([type(x) for x in got], [f.TranscriptionFrame])
        self.assertTrue(got[0].text)

    async def test_realtime_stt(self):
        heard = OpenAIRealtimeSTTService(**self.socket, turn_detection={"type": "server_vad"}, settings=OpenAIRealtimeSTTService.Settings(model="omni"))
        async with self.pipeline(heard) as (worker, sink):
            await asyncio.sleep(1)
            await self.hear(worker, SILENCE + VOICE + SILENCE)
            self.assertTrue((await sink.until(f.TranscriptionFrame)).text)

    def realtime(self, **session):
        properties = events.SessionProperties(**session)
        return OpenAIRealtimeLLMService(**self.socket, settings=OpenAIRealtimeLLMService.Settings(model="omni", system_instruction="Be brief.", session_properties=properties))

    async def test_realtime(self):
        """Asked by text, then a turn that the server finds, and one that interrupts its answer."""
        model = self.realtime(audio=events.AudioConfiguration(input=events.AudioInput(transcription=events.InputAudioTranscription(model="omni"),
                                                                                      turn_detection=events.TurnDetection(silence_duration_ms=400)),
                                                              output=events.AudioOutput(voice="alloy")))
        context = LLMContext([{"role": "user", "content": "Hello!"}])
        pair = LLMContextAggregatorPair(context)
        async with self.pipeline(pair.user(), model, pair.assistant()) as (worker, sink):
            await worker.queue_frame(f.LLMRunFrame())
            seen = []
            await sink.until(f.TTSStoppedFrame, seen)
            self.assertTrue([x for x in seen if isinstance(x, f.TTSAudioRawFrame)])
            await self.hear(worker, SILENCE + VOICE + SILENCE)
            await sink.until(f.UserStartedSpeakingFrame)
            await sink.until(f.TTSAudioRawFrame)
            await self.hear(worker, VOICE)
            await sink.until(f.InterruptionFrame)

    async def test_realtime_calls(self):
        model = self.realtime(output_modalities=["text"], tool_choice="required", max_output_tokens=100)
        context = LLMContext([{"role": "user", "content": "Will it rain?"}], tools=ToolsSchema(standard_tools=[WEATHER]))
        asked, calls = asyncio.Event(), []

        async def weather(params):
            calls.append(params.arguments)
            asked.set()
            await params.result_callback({"weather": "rain"})
        model.register_function("weather", weather)
        pair = LLMContextAggregatorPair(context)
        async with self.pipeline(pair.user(), model, pair.assistant()) as (worker, sink):
            await worker.queue_frame(f.LLMRunFrame())
            async with asyncio.timeout(LATEST):
                await asked.wait()
        self.assertIsInstance(calls[0]["wet"], bool)


if __name__ == "__main__":
    harness.OMNI = sys.argv.pop(1)
    result = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromTestCase(Pipecat))
    print(f"{result.testsRun - len(result.failures) - len(result.errors)} passed, {len(result.failures) + len(result.errors)} failed")
    sys.exit(0 if result.wasSuccessful() and result.testsRun > 0 else 1)
