"""Wyoming, Home Assistant's protocol, by plain sockets: what is heard and said is what /v1/audio/transcriptions and /v1/audio/speech give for the same."""
import json
import re
import socket
import struct
import time
import unittest

import harness
from harness import Case, Server
from test_transcriptions import HEAD, PATH, RATE, form, voice, wav


class Talk:
    """A connection."""

    def __init__(self, port, address=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=harness.LONG, source_address=address and (address, 0))
        self.file = self.socket.makefile("rb")

    def send(self, type, payload=b"", inline=False, **data):
        """Data in the line itself, or behind it."""
        head, more = {"type": type}, b""
        if data and inline:
            head["data"] = data
        elif data:
            more = json.dumps(data).encode()
            head["data_length"] = len(more)
        if payload:
            head["payload_length"] = len(payload)
        self.socket.sendall(json.dumps(head).encode() + b"\n" + more + payload)

    def read(self):
        """(type, data, payload); None: the server has closed."""
        line = self.file.readline()
        if not line:
            return None
        head = json.loads(line)
        data = json.loads(self.file.read(head["data_length"])) if head.get("data_length") else {}
        return head["type"], data, self.file.read(head.get("payload_length", 0))

    def until(self, *types):
        """All events up to one of these."""
        events = []
        while not events or events[-1][0] not in types:
            got = self.read()
            if got is None:
                raise AssertionError(f"closed after {[(e[0], e[1]) for e in events[-3:]]}")
            events.append(got)
        return events

    def close(self):
        self.file.close()
        self.socket.close()


def port_of(server):
    pattern = re.compile(r"Wyoming on tcp://.+:(\d+)")
    server.wait_until(lambda: any(pattern.search(line) for line in server.lines))
    return next(int(m.group(1)) for m in map(pattern.search, server.lines) if m)


class Wyoming(Case):
    FLAGS = ["--parallel", 4, "--wyoming", 0, "--timeout", 20, "--max-body", 4 << 20]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.port = port_of(cls.server)
        cls.voice = voice()

    def setUp(self):
        self.talk = Talk(self.port)
        self.addCleanup(self.talk.close)

    def say_sound(self, samples, rate=RATE, channels=1, talk=None, **transcribe):
        talk = talk or self.talk
        talk.send("transcribe", **transcribe)
        shape = {"rate": rate, "width": 2, "channels": channels}
        talk.send("audio-start", **shape)
        data = struct.pack(f"<{len(samples)}h", *samples)
        for at in range(0, len(data), 2048):
            talk.send("audio-chunk", data[at:at + 2048], **shape)
        talk.send("audio-stop", timestamp=None)

    def by_http(self, samples, *fields):
        got, _, data = self.server.ask("POST", PATH, form([("file", ("a.wav", wav(samples))), *fields]), HEAD)
        self.assertEqual(got, 200, data)
        return json.loads(data)["text"]

    def speech(self, text, **fields):
        got, _, data = self.server.ask("POST", "/v1/audio/speech", {"input": text, "voice": "ethan", "seed": 0, "response_format": "pcm", **fields})
        self.assertEqual(got, 200, data)
        return data

    def alive(self):
        other = Talk(self.port)
        other.send("ping", text="still there?")
        self.assertEqual(other.read()[:2], ("pong", {"text": "still there?"}))
        other.close()

    def test_info(self):
        for inline in [False, True]:
            self.talk.send("describe", inline=inline)
            kind, data, _ = self.talk.read()
            self.assertEqual(kind, "info")
            asr, tts = data["asr"], data["tts"]
            self.assertTrue(asr[0]["installed"] and asr[0]["models"][0]["installed"] and asr[0]["supports_transcript_streaming"])
            self.assertIn("de", asr[0]["models"][0]["languages"])
            self.assertEqual({v["name"] for v in tts[0]["voices"]}, {"aiden", "chelsie", "ethan"})
            self.assertEqual(set(asr[0]["attribution"]), {"name", "url"})
        self.talk.send("ping", inline=True, text="x")
        self.assertEqual(self.talk.read()[:2], ("pong", {"text": "x"}))
        self.talk.send("nothing-that-is-known", b"payload", a=1)
        self.talk.send("ping")
        self.assertEqual(self.talk.read()[:2], ("pong", {"text": None}))

    def test_transcribe(self):
        self.say_sound(self.voice, language="de")
        events = self.talk.until("transcript-stop")
        text = self.by_http(self.voice, ("language", "de"))
        self.assertEqual((events[0][0], events[0][1]), ("transcript-start", {"language": "de"}))
        self.assertEqual("".join(d["text"] for t, d, _ in events if t == "transcript-chunk"), text)
        self.assertEqual(events[-2][:2], ("transcript", {"text": text, "language": "de"}))
        # Again on the same connection, with names that may come, in stereo.
        self.say_sound([s for v in self.voice for s in (v, v)], channels=2, transcript_names=["Omni"], transcript_terms=["lamp", "door"])
        events = self.talk.until("transcript-stop")
        self.assertEqual(events[-2][1], {"text": self.by_http(self.voice, ("prompt", "Omni, lamp, door"))})
        # Nothing was said, and audio-stop without a start.
        self.talk.send("transcribe")
        self.talk.send("audio-start", rate=RATE, width=2, channels=1)
        self.talk.send("audio-stop")
        self.assertEqual(self.talk.until("transcript-stop")[-2][1], {"text": ""})
        self.talk.send("audio-stop")
        self.alive()

    def test_synthesize(self):
        for text in ["Hello, this is Omni.", "Again, and in the same voice!"]:
            self.talk.send("synthesize", text=text, voice={"name": "ethan"})
            events = self.talk.until("audio-stop")
            self.assertEqual(events[0][:2], ("audio-start", {"rate": 24000, "width": 2, "channels": 1}))
            self.assertEqual({e[0] for e in events[1:-1]}, {"audio-chunk"})
            self.assertEqual({json.dumps(e[1], sort_keys=True) for e in events[1:-1]}, {'{"channels": 1, "rate": 24000, "width": 2}'})
            self.assertEqual(b"".join(e[2] for e in events), self.speech(text))
        self.talk.send("synthesize", text="  ")
        self.assertEqual([e[0] for e in self.talk.until("audio-stop")], ["audio-start", "audio-stop"])

    def test_synthesize_streaming(self):
        sentences = ["The first sentence is here. ", "And a second one follows it! ", "And the rest"]
        whole = "".join(sentences)
        self.talk.send("synthesize-start", voice={"name": "ethan"})
        for at in range(0, len(whole), 5):
            self.talk.send("synthesize-chunk", text=whole[at:at + 5])
        self.talk.send("synthesize", text=whole, voice={"name": "ethan"})  # for servers that do not stream
        self.talk.send("synthesize-stop")
        events = self.talk.until("synthesize-stopped")
        self.assertEqual([e[0] for e in events if e[0] != "audio-chunk"], ["audio-start", "audio-stop", "synthesize-stopped"])
        said = [self.speech(s) for s in ["The first sentence is here.", " And a second one follows it!", " And the rest"]]
        self.assertEqual(b"".join(e[2] for e in events), b"".join(said))
        # It speaks before the text is whole.
        self.talk.send("synthesize-start")
        self.talk.send("synthesize-chunk", text="A sentence that is complete. ")
        self.assertEqual(self.talk.read()[0], "audio-start")
        self.talk.send("synthesize-stop")
        self.talk.until("synthesize-stopped")

    def test_refused(self):
        shape = {"rate": RATE, "width": 2, "channels": 1}
        for send, say in [(lambda t: t.send("transcribe", language="tlh"), "Cantonese"), (lambda t: t.send("audio-start", rate=1, width=2, channels=1), "rate"),
                          (lambda t: t.send("audio-start", **{**shape, "width": 1}), "width"), (lambda t: t.send("audio-start", **{**shape, "channels": 99}), "channels"),
                          (lambda t: t.send("audio-chunk", b"1234"), "rate"), (lambda t: t.send("synthesize"), "text"), (lambda t: t.send("synthesize", text=5), "text"),
                          (lambda t: t.send("synthesize", text="x", voice={"name": "nobody"}), "nobody"), (lambda t: t.send("synthesize", text="x", text_format="ssml"), "text_format"),
                          (lambda t: t.send("synthesize", text="x" * 70000), "more text")]:
            talk = Talk(self.port)
            send(talk)
            kind, data, _ = talk.read()
            self.assertEqual(kind, "error")
            self.assertIn(say, data["text"])
            self.assertTrue(data["code"])
            self.assertIsNone(talk.read())
            talk.close()
        self.alive()

    def test_damaged(self):
        for data in [b"hello\n", b"[]\n", b"{}\n", b'{"type": 5}\n', b'{"type": "ping", "data": 5}\n', b'{"type": "ping", "data_length": -1}\n', b'{"type": "ping", "data_length": "1"}\n',
                     b'{"type": "ping", "data_length": 99999999}\n', b'{"type": "ping", "payload_length": 99999999}\n', b'{"type": "ping", "payload_length": 1e3}\n',
                     b'{"type": "ping", "data_length": 2}\n[]', b'{"type": "ping", "data_length": 2}\n{x', b'{"type": "' + b"x" * 20000, b'{"type": "' + b"x" * 100 + b'"}\n',
                     b'{"type":"\\u0000"}\n', b"[" * 10000 + b"\n", b"\xff\xfe\n", b"\n"]:
            talk = Talk(self.port)
            talk.socket.sendall(data)
            kind, said, _ = talk.read()
            self.assertEqual(kind, "error", data[:60])
            self.assertTrue(said["text"])
            self.assertIsNone(talk.read())
            talk.close()
        whole = b'{"type": "ping", "data_length": 13}\n{"text": "ab"}'[:-1] + b'}{"type": "synthesize", "data": {"text": "Hi"}}\n'
        for n in range(0, len(whole), 3):  # cut anywhere, the client goes
            s = socket.create_connection(("127.0.0.1", self.port))
            s.sendall(whole[:n])
            s.close()
        self.alive()

    def test_byte_by_byte(self):
        data = b'{"type": "ping", "data_length": 14}\n{"text": "ab"}{"type": "ping"}\n'
        for i in range(len(data)):
            self.talk.socket.sendall(data[i:i + 1])
        self.assertEqual(self.talk.read()[:2], ("pong", {"text": "ab"}))
        self.assertEqual(self.talk.read()[:2], ("pong", {"text": None}))

    def test_many_small_events(self):
        """Each costs what it is, whatever has been read behind it."""
        self.talk.send("none", bytes(1 << 20))
        self.talk.socket.sendall(b'{"type": "x"}\n' * 300000)
        self.talk.send("ping", text="end")
        self.assertEqual(self.talk.read()[:2], ("pong", {"text": "end"}))

    def test_too_much_sound(self):
        shape = {"rate": RATE, "width": 2, "channels": 1}
        self.talk.send("audio-start", **shape)
        try:
            for _ in range(80):
                self.talk.send("audio-chunk", bytes(65536), **shape)
        except OSError:
            pass  # it was told before all was sent, and the connection closed
        self.alive()
        self.server.wait_until(lambda: self.server.metric("omni_requests_in_flight") == 1, 20)  # this one

    def test_client_goes_away(self):
        for start in [lambda t: self.say_sound(self.voice * 60, talk=t), lambda t: t.send("synthesize", text="A long text to say. " * 150)]:
            talk = Talk(self.port)
            start(talk)
            self.server.wait_until(lambda: self.server.metric("omni_engine_requests") > 0, 30)
            talk.close()
            self.server.wait_until(lambda: self.server.metric("omni_engine_requests") == 0, 20)

    def test_many(self):
        talks = [Talk(self.port) for _ in range(8)]
        for t in talks:
            self.say_sound(self.voice, talk=t, language="en")
        texts = {t.until("transcript-stop")[-2][1]["text"] for t in talks}
        self.assertEqual(texts, {self.by_http(self.voice, ("language", "en"))})
        for t in talks:
            t.close()
        crowd = []
        for _ in range(80):  # more than may come: those are closed, the others answered
            crowd.append(socket.create_connection(("127.0.0.1", self.port), timeout=harness.LONG))
        for s in crowd:
            s.close()
        self.server.wait_until(lambda: self.answers(), 20)

    def answers(self):
        try:
            self.alive()
            return True
        except (AssertionError, OSError, TypeError):
            return False


class Limits(unittest.TestCase):
    def test_one_address(self):
        """It has half of the places; others are answered meanwhile."""
        server = Server("--wyoming", 0)
        port = port_of(server)
        first = [Talk(port, "127.0.0.2") for _ in range(32)]
        for t in first:
            t.send("ping", text="a")
            self.assertEqual(t.read()[0], "pong")
        over = Talk(port, "127.0.0.2")
        self.assertIsNone(over.read())
        over.close()
        other = Talk(port, "127.0.0.3")
        other.send("ping", text="b")
        self.assertEqual(other.read()[:2], ("pong", {"text": "b"}))
        for t in [*first, other]:
            t.close()
        self.assertEqual(server.stop(), 0)

    def test_rate(self):
        """A speech is one request, however many sentences it has."""
        server = Server("--wyoming", 0, "--rate-limit", 2)
        talk = Talk(port_of(server))
        talk.send("synthesize-start")
        for _ in range(5):
            talk.send("synthesize-chunk", text="A sentence of some words. ")
        talk.send("synthesize-stop")
        self.assertEqual(talk.until("synthesize-stopped", "error")[-1][0], "synthesize-stopped")
        talk.send("synthesize", text="Again.")
        self.assertEqual(talk.until("audio-stop", "error")[-1][0], "audio-stop")
        talk.send("synthesize", text="Again.")
        self.assertEqual(talk.read()[:2][1]["code"], "rate-limit-exceeded")
        talk.close()
        self.assertEqual(server.stop(), 0)


class End(unittest.TestCase):
    def test_graceful(self):
        """What runs may end; then nobody is let in."""
        server = Server("--wyoming", 0, "--grace", 60)
        port = port_of(server)
        talk = Talk(port)
        talk.send("synthesize", text="A text that takes a little while to say. " * 8)
        self.assertEqual(talk.read()[0], "audio-start")
        server.process.terminate()
        self.assertEqual(talk.until("audio-stop")[-1][0], "audio-stop")
        talk.close()
        self.assertEqual(server.stop(), 0)
        self.assertRaises(OSError, Talk, port)

    def test_between_sentences(self):
        """A speech that has begun is said to its end, also when its next sentence has yet to come."""
        server = Server("--wyoming", 0, "--grace", 60)
        talk = Talk(port_of(server))
        talk.send("synthesize-start", voice={"name": "ethan"})
        talk.send("synthesize-chunk", text="A sentence that is complete. ")
        self.assertEqual(talk.read()[0], "audio-start")
        server.wait_until(lambda: any("WYOMING synthesize 200" in line for line in server.lines))
        server.process.terminate()
        server.wait_until(lambda: any("shutting down" in line for line in server.lines))
        time.sleep(0.5)
        self.assertIsNone(server.process.poll())
        talk.send("synthesize-chunk", text="And a second one. ")
        talk.send("synthesize-stop")
        kinds = [e[0] for e in talk.until("synthesize-stopped")]
        self.assertIn("audio-chunk", kinds)
        server.wait_until(lambda: len([line for line in server.lines if "WYOMING synthesize 200" in line]) == 2)
        talk.close()
        self.assertEqual(server.process.wait(harness.LONG), 0)
        self.assertEqual(server.stop(), 0)

    def test_cut(self):
        server = Server("--wyoming", 0, "--grace", 0)
        talk = Talk(port_of(server))
        talk.send("synthesize", text="A text that takes a little while to say. " * 80)
        self.assertEqual(talk.read()[0], "audio-start")
        began = time.monotonic()
        server.process.terminate()
        self.assertEqual(server.stop(), 0)
        self.assertLess(time.monotonic() - began, 20)
        talk.close()


if __name__ == "__main__":
    unittest.main()
