#!/usr/bin/env python3
"""omni serve through Wyoming's own Python client: tests/server/wyoming_client.py OMNI. Needs the package wyoming (scripts/clients-env.sh)."""
import asyncio
import sys
import unittest

from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped, SynthesizeVoice

import harness
from harness import Case
from test_transcriptions import RATE, voice
from test_wyoming import port_of


class Client(Case):
    FLAGS = ["--parallel", 4, "--wyoming", 0]

    def talk(self, *asked, until):
        """What is answered, up to an event of that type."""

        async def run():
            got = []
            async with AsyncTcpClient("127.0.0.1", port_of(self.server), read_timeout=harness.LONG) as client:
                for one in asked:
                    await client.write_event(one.event())
                while not got or not until.is_type(got[-1].type):
                    event = await client.read_event()
                    if event is None:
                        break
                    got.append(event)
            return got

        return asyncio.run(run())

    def test_describe(self):
        info = Info.from_event(self.talk(Describe(), until=Info)[-1])
        self.assertTrue(info.asr[0].supports_transcript_streaming and info.tts[0].supports_synthesize_streaming)
        self.assertIn("en", info.asr[0].models[0].languages)
        self.assertEqual({v.name for v in info.tts[0].voices}, {"aiden", "chelsie", "ethan"})
        self.assertEqual(Pong.from_event(self.talk(Ping("x"), until=Pong)[-1]).text, "x")

    def test_transcribe(self):
        samples = b"".join(v.to_bytes(2, "little", signed=True) for v in voice())
        chunks = [AudioChunk(RATE, 2, 1, samples[at:at + 2048]) for at in range(0, len(samples), 2048)]
        events = self.talk(Transcribe(language="en", transcript_names=["Omni"]), AudioStart(RATE, 2, 1), *chunks, AudioStop(), until=TranscriptStop)
        self.assertTrue(TranscriptStart.is_type(events[0].type))
        text = "".join(TranscriptChunk.from_event(e).text for e in events if TranscriptChunk.is_type(e.type))
        whole = Transcript.from_event(events[-2])
        self.assertEqual((whole.text, whole.language), (text, "en"))
        self.assertTrue(text)

    def test_synthesize(self):
        whole = self.talk(Synthesize("Hello, this is Omni.", SynthesizeVoice("ethan")), until=AudioStop)
        start = AudioStart.from_event(whole[0])
        self.assertEqual((start.rate, start.width, start.channels), (24000, 2, 1))
        sound = lambda events: b"".join(AudioChunk.from_event(e).audio for e in events if AudioChunk.is_type(e.type))
        self.assertGreater(len(sound(whole)), 24000)
        events = self.talk(SynthesizeStart(SynthesizeVoice("ethan")), SynthesizeChunk("Hello, this"), SynthesizeChunk(" is Omni."), SynthesizeStop(), until=SynthesizeStopped)
        self.assertEqual(sound(events), sound(whole))
        self.assertTrue(AudioStop.is_type(events[-2].type))

    def test_error(self):
        events = self.talk(Synthesize("x", SynthesizeVoice("nobody")), until=AudioStop)
        self.assertIn("nobody", Error.from_event(events[-1]).text)


if __name__ == "__main__":
    harness.OMNI = sys.argv.pop(1)
    result = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromTestCase(Client))
    print(f"{result.testsRun - len(result.failures) - len(result.errors)} passed, {len(result.failures) + len(result.errors)} failed")
    sys.exit(0 if result.wasSuccessful() and result.testsRun > 0 else 1)
