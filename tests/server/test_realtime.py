"""GET /v1/realtime: answers are those of /v1/chat/completions to the same conversation and seed; the events around them, limits, and faults."""
import array
import base64
import json
import math
import signal
import socket
import struct
import threading
import time

import harness
from harness import Case, Server
from test_answers import PICTURE, SOUND, data_url
from websocket import Closed, Refused, WebSocket

LAST = "response.done"
SILENCE = bytes(2 * 24000)  # a second


def voice(seconds=1.5, rate=24000):
    """A voice at 120 Hz that comes and goes four times a second."""
    values = []
    for i in range(int(seconds * rate)):
        t = i / rate
        v = sum(math.sin(2 * math.pi * 120 * h * t + h * h) / h for h in range(1, 12))
        values.append(int(6000 * v * (0.6 + 0.4 * math.sin(2 * math.pi * 4 * t))))
    return array.array("h", values).tobytes()


VOICE = voice()


def b64(data):
    return base64.b64encode(data).decode()


def wav(pcm, rate=24000):
    return b"RIFF" + struct.pack("<I", 36 + len(pcm)) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16) + b"data" + struct.pack(
        "<I", len(pcm)) + pcm


def text_item(text, role="user", **more):
    return {"type": "message", "role": role, "content": [{"type": "input_text" if role != "assistant" else "output_text", "text": text}], **more}


def joined(events, type):
    return "".join(e["delta"] for e in events if e["type"] == type)


def sound_of(events, type="response.output_audio.delta"):
    return b"".join(base64.b64decode(e["delta"]) for e in events if e["type"] == type)


class Sessions(Case):
    FLAGS = ["--parallel", 4, "--max-body", 4 << 20]

    def open(self, turns=None, modality="text", server=None, **session):
        """A session that answers with 6 tokens of seed 5 when it is told to."""
        w = WebSocket((server or self.server).port)
        self.addCleanup(w.close)
        self.assertEqual(w.event()["type"], "session.created")
        w.send("session.update", session={"type": "realtime", "output_modalities": [modality], "seed": 5, "max_output_tokens": 6,
                                          "audio": {"input": {"turn_detection": turns}}, **session})
        self.assertEqual(w.event()["type"], "session.updated")
        return w

    def endless(self):
        """What keeps an answer from ending by itself. It also waits for a client that does not read, so it is not over before something else is sent."""
        end = self.server.json("POST", "/tokenize", {"content": "<|im_end|>", "parse_special": True})["tokens"][0]
        return {"max_output_tokens": "inf", "logit_bias": {str(end): -100}}

    def add(self, w, item, **where):
        w.send("conversation.item.create", item=item, **where)
        added, done = w.event(), w.event()
        self.assertEqual((added["type"], done["type"]), ("conversation.item.added", "conversation.item.done"), (added, done))
        self.assertEqual((added["item"], added["previous_item_id"]), (done["item"], done["previous_item_id"]))
        return added

    def ask(self, w, **response):
        w.send("response.create", **({"response": response} if response else {}))
        return w.until(LAST)

    def say(self, w, *pieces):
        data = b"".join(pieces)
        for at in range(0, len(data), 4800):
            w.send("input_audio_buffer.append", audio=b64(data[at:at + 4800]))

    def fails(self, w, type, param=None, code=None, say="", **fields):
        w.send(type, event_id="mine", **fields)
        e = w.event()
        self.assertEqual(e["type"], "error", e)
        self.assertEqual(set(e["error"]), {"type", "code", "message", "param", "event_id"})
        self.assertEqual((e["error"]["param"], e["error"]["event_id"], e["error"]["type"]), (param, "mine", "invalid_request_error"), e)
        if code:
            self.assertEqual(e["error"]["code"], code)
        self.assertIn(say, e["error"]["message"])

    def chat_text(self, messages, **fields):
        return self.server.chat(messages, **fields)["choices"][0]["message"]["content"]


class Realtime(Sessions):
    # ---- sessions

    def test_session(self):
        w = WebSocket(self.server.port, protocols=["realtime"])
        self.addCleanup(w.close)
        self.assertEqual(w.head["sec-websocket-protocol"], "realtime")
        s = w.event()["session"]
        self.assertEqual((s["type"], s["object"], s["output_modalities"], s["max_output_tokens"]), ("realtime", "realtime.session", ["audio"], "inf"))
        self.assertEqual(s["audio"]["input"]["turn_detection"], {
            "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500, "idle_timeout_ms": None,
            "create_response": True, "interrupt_response": True})
        self.assertEqual(s["audio"]["output"], {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "chelsie", "speed": 1.0})
        w.send("session.update", session={"type": "realtime", "instructions": "Be brief.", "output_modalities": ["text"], "max_output_tokens": 7, "audio": {
            "input": {"format": {"type": "audio/pcmu"}, "turn_detection": {"type": "server_vad", "threshold": 0.7, "idle_timeout_ms": 6000}},
            "output": {"voice": "Ethan", "format": {"type": "audio/pcma"}}}})
        s = w.until("session.updated")[-1]["session"]
        self.assertEqual((s["instructions"], s["output_modalities"], s["max_output_tokens"]), ("Be brief.", ["text"], 7))
        self.assertEqual((s["audio"]["input"]["format"], s["audio"]["output"]["format"]), ({"type": "audio/pcmu"}, {"type": "audio/pcma"}))
        self.assertEqual((s["audio"]["output"]["voice"], s["audio"]["input"]["turn_detection"]["threshold"]), ("ethan", 0.7))
        # What is not named stays.
        w.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        t = w.until("session.updated")[-1]["session"]
        s["audio"]["input"]["turn_detection"] = None
        self.assertEqual(t, s)

    def test_errors_leave_the_session_as_it_was(self):
        w = self.open()
        for param, update in {"session.type": {"type": "transcription"}, "session.instructions": {"instructions": 3},
                              "session.output_modalities": {"output_modalities": ["smell"]}, "session.max_output_tokens": {"max_output_tokens": 0},
                              "session.audio": {"audio": 1}, "session.audio.input.format": {"audio": {"input": {"format": {"type": "audio/opus"}}}},
                              "session.audio.output.voice": {"audio": {"output": {"voice": "nobody"}}},
                              "session.audio.output.speed": {"audio": {"output": {"speed": 9}}},
                              "session.audio.input.turn_detection.threshold": {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}},
                              "session.audio.input.turn_detection": {"audio": {"input": {"turn_detection": {"type": "guess"}}}},
                              "tools": {"tools": [{"type": "mcp"}]}}.items():
            self.fails(w, "session.update", param, "invalid_value", session=update)
        self.fails(w, "session.update", "session", session=[])
        self.fails(w, "session.uptade", "type", "invalid_value", "session.uptade")
        self.fails(w, "input_audio_buffer.append", "audio", say="base64", audio="???")
        self.fails(w, "input_audio_buffer.append", "audio", "missing_required_parameter")
        self.fails(w, "input_audio_buffer.append", "audio", say="two each", audio=b64(b"123"))
        self.fails(w, "input_audio_buffer.commit", None, "input_audio_buffer_commit_empty")
        self.fails(w, "response.cancel", None, "response_cancel_not_active")
        self.fails(w, "response.create", "conversation", "conversation_empty")
        self.fails(w, "response.create", "response.conversation", response={"conversation": "mine"})
        self.fails(w, "x" * 59 + "é" * 5, "type", "invalid_value", "x" * 59)  # cut within a character
        for text in ["", "{", "[1]", "3", '{"type": 3}', '{"a": 1, "a": 2}', "[" * 100000, '{"type": "x"}\0', "\xff\xfe".encode("latin-1")]:
            w.text(text)
            self.assertEqual(w.event()["type"], "error", text[:20])
        w.send("session.update", session={})
        self.assertEqual(w.event()["type"], "session.updated")

    def test_settings_have_a_size(self):
        w = self.open()
        w.send("session.update", session={"instructions": "x" * (3 << 20)})
        self.assertEqual(w.event()["type"], "session.updated")
        self.fails(w, "session.update", "session", "invalid_value", "4 MiB", session={"prompt": "y" * (2 << 20)})
        self.fails(w, "response.create", "response", "invalid_value", "4 MiB", response={"tracing": {"a": "y" * (2 << 20)}})
        w.send("session.update", session={"instructions": "x", "prompt": "y" * (2 << 20)})
        self.assertEqual(w.event()["type"], "session.updated")

    # ---- answers

    def test_answers_are_those_of_chat(self):
        w = self.open(instructions="Be brief.")
        self.add(w, text_item("What is this?"))
        first = self.ask(w)
        chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is this?"}]
        text = joined(first, "response.output_text.delta")
        self.assertEqual(text, self.chat_text(chat))
        self.assertEqual([e["type"] for e in first if not e["type"].endswith("delta")], [
            "response.created", "response.output_item.added", "conversation.item.added", "response.content_part.added", "response.output_text.done",
            "response.content_part.done", "conversation.item.done", "response.output_item.done", "response.done"])
        self.assertEqual(len({e["event_id"] for e in w.seen}), len(w.seen))
        done = first[-1]["response"]
        self.assertEqual((done["status"], done["status_details"]), ("incomplete", {"type": "incomplete", "reason": "max_output_tokens"}))
        self.assertEqual(done["output"][0]["content"], [{"type": "output_text", "text": text}])
        usage = self.server.chat(chat)["usage"]
        self.assertEqual((done["usage"]["input_tokens"], done["usage"]["output_tokens"]), (usage["prompt_tokens"], 6))
        # The conversation goes on, and what was computed is found again.
        self.add(w, text_item("Why?"))
        second = self.ask(w)
        chat += [{"role": "assistant", "content": text}, {"role": "user", "content": "Why?"}]
        self.assertEqual(joined(second, "response.output_text.delta"), self.chat_text(chat))
        self.assertGreater(second[-1]["response"]["usage"]["input_token_details"]["cached_tokens"], 0)
        # Other instructions: it is laid out anew.
        self.add(w, text_item("How?"))
        third = self.ask(w, instructions="Be long.")
        chat = [{"role": "system", "content": "Be long."}, *chat[1:], {"role": "assistant", "content": joined(second, "response.output_text.delta")},
                {"role": "user", "content": "How?"}]
        self.assertEqual(joined(third, "response.output_text.delta"), self.chat_text(chat))

    def test_speech_is_that_of_chat(self):
        w = self.open(modality="audio")
        self.add(w, text_item("Hi"))
        events = self.ask(w)
        messages = [{"role": "user", "content": "Hi"}]
        chunks = self.server.stream(messages, modalities=["text", "audio"], audio={"format": "pcm16"})
        deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
        sound = b"".join(base64.b64decode(d["audio"]["data"]) for d in deltas if "data" in d.get("audio", {}))
        self.assertEqual(joined(events, "response.output_audio_transcript.delta"), "".join(d.get("content") or "" for d in deltas))
        self.assertTrue(sound and sound_of(events) == sound)
        names = [e["type"] for e in events if not e["type"].endswith("delta")]
        self.assertEqual(names[4:6], ["response.output_audio.done", "response.output_audio_transcript.done"])
        part = events[-1]["response"]["output"][0]["content"][0]
        self.assertEqual((part["type"], set(part)), ("output_audio", {"type", "transcript"}))
        # OpenAI's voices stand for the model's, which the session tells.
        w.send("session.update", session={"type": "realtime", "audio": {"output": {"voice": "marin"}}})
        self.assertIn(w.event()["session"]["audio"]["output"]["voice"], ["aiden", "chelsie", "ethan"])
        # 8000 bytes a second on the telephone, as long.
        for kind in ["audio/pcmu", "audio/pcma"]:
            w = self.open(modality="audio", audio={"input": {"turn_detection": None}, "output": {"format": {"type": kind}}})
            self.add(w, text_item("Hi"))
            small = sound_of(self.ask(w))
            self.assertAlmostEqual(len(small) / 8000, len(sound) / 48000, delta=0.05)

    def test_media(self):
        w = self.open()
        ogg = {"data": b64(wav(VOICE)), "format": "wav"}
        self.add(w, {"type": "message", "role": "user", "content": [
            {"type": "input_image", "image_url": data_url("image/jpeg", PICTURE)}, {"type": "input_audio", "audio": b64(VOICE)},
            {"type": "input_text", "text": "What is this?"}]})
        want = self.chat_text([{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": data_url("image/jpeg", PICTURE)}}, {"type": "input_audio", "input_audio": ogg},
            {"type": "text", "text": "What is this?"}]}])
        self.assertEqual(joined(self.ask(w), "response.output_text.delta"), want)
        self.fails(w, "conversation.item.create", "item.content[0]", item={"type": "message", "role": "user", "content": [
            {"type": "input_image", "image_url": "file:///etc/passwd"}]})

    def test_input_buffer(self):
        w = self.open()
        for at in range(0, len(VOICE), 4800):
            w.send("input_audio_buffer.append", audio=b64(VOICE[at:at + 4800]))
        w.send("input_audio_buffer.commit")
        committed, added = w.event(), w.event()
        self.assertEqual((committed["type"], committed["previous_item_id"], committed["item_id"]), ("input_audio_buffer.committed", None, added["item"]["id"]))
        self.assertEqual(added["item"]["content"], [{"type": "input_audio", "transcript": None}])
        self.assertEqual(w.event()["type"], "conversation.item.done")
        w.send("conversation.item.retrieve", item_id=committed["item_id"])
        self.assertEqual(base64.b64decode(w.event()["item"]["content"][0]["audio"]), VOICE)
        want = self.chat_text([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": b64(wav(VOICE)), "format": "wav"}}]}])
        self.assertEqual(joined(self.ask(w), "response.output_text.delta"), want)
        w.send("input_audio_buffer.append", audio=b64(VOICE))
        w.send("input_audio_buffer.clear")
        self.assertEqual(w.event()["type"], "input_audio_buffer.cleared")
        self.fails(w, "input_audio_buffer.commit", None, "input_audio_buffer_commit_empty")

    def test_telephone(self):
        """Sound of 8000 bytes a second is as many rows as the same of 24000 samples."""
        rows = []
        for kind, data in [("audio/pcm", bytes(2 * 24000)), ("audio/pcmu", b"\xff" * 8000), ("audio/pcma", b"\xd5" * 8000)]:
            w = self.open(audio={"input": {"turn_detection": None, "format": {"type": kind}}})
            w.send("input_audio_buffer.append", audio=b64(data))
            w.send("input_audio_buffer.commit")
            item = w.until("conversation.item.done")[-1]["item"]["id"]
            w.send("conversation.item.retrieve", item_id=item)
            self.assertEqual(base64.b64decode(w.event()["item"]["content"][0]["audio"]), data)
            rows.append(self.ask(w)[-1]["response"]["usage"]["input_tokens"])
        self.assertEqual(len(set(rows)), 1, rows)

    def test_items(self):
        w = self.open()
        b = self.add(w, text_item("b", id="B"))
        self.assertEqual((b["item"]["id"], b["previous_item_id"]), ("B", None))
        self.assertEqual(self.add(w, text_item("d", id="D"))["previous_item_id"], "B")
        self.assertEqual(self.add(w, text_item("a", id="A"), previous_item_id="root")["previous_item_id"], None)
        self.assertEqual(self.add(w, text_item("c", "assistant", id="C"), previous_item_id="B")["previous_item_id"], "B")
        self.fails(w, "conversation.item.create", "item.id", "item_already_exists", item=text_item("x", id="A"))
        self.fails(w, "conversation.item.create", "previous_item_id", "item_not_found", item=text_item("x"), previous_item_id="Z")
        for item, param in [(None, "item"), ({"type": "dance"}, "item.type"), (text_item("x", role="king"), "item.role"),
                            ({"type": "message", "role": "user", "content": []}, "item.content"), (text_item(3), "item.content[0]"),
                            ({"type": "message", "role": "system", "content": [{"type": "input_audio", "audio": "AAAA"}]}, "item.content[0]"),
                            (text_item("x", id=""), "item.id"), ({"type": "function_call", "name": "f"}, "item.arguments"),
                            ({"type": "function_call_output", "call_id": "none", "output": "x"}, "item.call_id")]:
            self.fails(w, "conversation.item.create", param, item=item)
        messages = [{"role": r, "content": c} for r, c in [("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")]]
        answer = self.ask(w)
        self.assertEqual(joined(answer, "response.output_text.delta"), self.chat_text(messages))
        w.send("conversation.item.delete", item_id=answer[-1]["response"]["output"][0]["id"])
        w.until("conversation.item.deleted")
        w.send("conversation.item.delete", item_id="B")
        self.assertEqual(w.event()["item_id"], "B")
        self.fails(w, "conversation.item.delete", "item_id", "item_not_found", item_id="B")
        self.fails(w, "conversation.item.retrieve", "item_id", "item_not_found", item_id="B")
        self.assertEqual(joined(self.ask(w), "response.output_text.delta"), self.chat_text([messages[0], *messages[2:]]))

    def test_out_of_band(self):
        w = self.open()
        self.add(w, text_item("What is this?", id="Q"))
        events = self.ask(w, conversation="none", metadata={"a": "b"}, input=[{"type": "item_reference", "id": "Q"}, text_item("Answer.")], max_output_tokens=4)
        want = self.chat_text([{"role": "user", "content": "What is this?"}, {"role": "user", "content": "Answer."}], max_tokens=4)
        self.assertEqual(joined(events, "response.output_text.delta"), want)
        self.assertEqual((events[-1]["response"]["metadata"], events[-1]["response"]["conversation_id"]), ({"a": "b"}, None))
        self.assertNotIn("conversation.item.added", [e["type"] for e in events])
        self.assertEqual(joined(self.ask(w), "response.output_text.delta"), self.chat_text([{"role": "user", "content": "What is this?"}]))

    def test_calls(self):
        schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "y"]}},
                  "required": ["a", "b"], "additionalProperties": False}
        tools = [{"type": "function", "name": "f", "description": "d", "parameters": schema}]
        chat = dict(tools=[{"type": "function", "function": {k: v for k, v in tools[0].items() if k != "type"}}], max_tokens=300, parallel_tool_calls=False)
        messages = [{"role": "user", "content": "x"}]
        [call] = self.server.chat(messages, tool_choice="required", **chat)["choices"][0]["message"]["tool_calls"]
        for modality in ["text", "audio"]:
            w = self.open(modality=modality, tools=tools, tool_choice="required", max_output_tokens=300, parallel_tool_calls=False)
            self.add(w, text_item("x"))
            events = self.ask(w)
            self.assertEqual([e["type"] for e in events], [
                "response.created", "response.output_item.added", "conversation.item.added", "response.function_call_arguments.delta",
                "response.function_call_arguments.done", "conversation.item.done", "response.output_item.done", "response.done"])
            done = events[4]
            self.assertEqual((done["name"], done["arguments"]), ("f", call["function"]["arguments"]))
            [item] = events[-1]["response"]["output"]
            self.assertEqual((item["type"], item["name"], item["arguments"], item["status"], item["call_id"]), ("function_call", "f", done["arguments"], "completed", done["call_id"]))
            self.assertEqual(events[-1]["response"]["status"], "completed")
            # Its result, and an answer to that.
            self.add(w, {"type": "function_call_output", "call_id": item["call_id"], "output": "rain"})
            answer = self.ask(w, tool_choice="none", output_modalities=["text"], max_output_tokens=6)
            want = self.chat_text([*messages, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": call["id"], "content": "rain"}])
            self.assertEqual(joined(answer, "response.output_text.delta"), want)
            # With tools again: the conversation is laid out with them.
            answer = self.ask(w, tool_choice="auto", output_modalities=["text"], max_output_tokens=6)
            self.assertGreater(answer[-1]["response"]["usage"]["input_tokens"], 60)
            self.fails(w, "response.create", "tool_choice", response={"tool_choice": "maybe"})

    def test_cancel(self):
        w = self.open(modality="audio", **self.endless())
        self.add(w, text_item("x"))
        w.send("response.create")
        w.until("response.output_audio.delta")
        w.send("response.create", event_id="again")
        error = w.until("error")[-1]["error"]
        self.assertEqual((error["code"], error["event_id"]), ("conversation_already_has_active_response", "again"))
        w.send("response.cancel")
        events = w.until(LAST)
        r = events[-1]["response"]
        self.assertEqual((r["status"], r["status_details"]), ("cancelled", {"type": "cancelled", "reason": "client_cancelled"}))
        self.assertEqual(r["output"][0]["status"], "incomplete")
        self.assertEqual(r["output"][0]["content"][0]["transcript"], joined(w.seen, "response.output_audio_transcript.delta"))
        self.server.wait_until(lambda: self.server.metric("omni_engine_requests") == 0)
        self.ask(w, max_output_tokens=3)

    def test_truncate(self):
        w = self.open(modality="audio", max_output_tokens=40)
        self.add(w, text_item("Hi"))
        events = self.ask(w)
        item, text = events[-1]["response"]["output"][0], joined(events, "response.output_audio_transcript.delta")
        ms = len(sound_of(events)) / 48
        cut = int(ms / 2)
        for param, fields in {"item_id": {"item_id": "none", "audio_end_ms": 1}, "audio_end_ms": {"item_id": item["id"], "audio_end_ms": int(ms) + 10}}.items():
            self.fails(w, "conversation.item.truncate", param, content_index=0, **fields)
        w.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=cut)
        e = w.event()
        self.assertEqual((e["type"], e["item_id"], e["audio_end_ms"]), ("conversation.item.truncated", item["id"], cut))
        w.send("conversation.item.retrieve", item_id=item["id"])
        kept = w.event()["item"]["content"][0]["transcript"]
        self.assertTrue(text.startswith(kept) and 0 < len(kept) < 0.75 * len(text), (text, kept))
        self.add(w, text_item("Go on"))
        second = self.ask(w, output_modalities=["text"], max_output_tokens=6)
        self.assertEqual(joined(second, "response.output_text.delta"), self.chat_text(
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": kept}, {"role": "user", "content": "Go on"}]))
        w.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=0)
        w.event()
        w.send("conversation.item.retrieve", item_id=item["id"])
        self.assertEqual(w.event()["item"]["content"][0]["transcript"], "")

    def test_beta(self):
        w = WebSocket(self.server.port, headers={"OpenAI-Beta": "realtime=v1"})
        self.addCleanup(w.close)
        s = w.event()["session"]
        self.assertEqual((s["modalities"], s["input_audio_format"], s["output_audio_format"], s["voice"], s["max_response_output_tokens"]),
                         (["audio", "text"], "pcm16", "pcm16", "chelsie", "inf"))
        self.assertEqual(w.event()["conversation"]["object"], "realtime.conversation")
        w.send("session.update", session={"modalities": ["text"], "input_audio_format": "g711_ulaw", "turn_detection": None, "voice": "ethan",
                                          "max_response_output_tokens": 6, "temperature": 0.8, "seed": 5})
        s = w.event()["session"]
        self.assertEqual((s["modalities"], s["input_audio_format"], s["turn_detection"], s["max_response_output_tokens"], s["voice"]),
                         (["text"], "g711_ulaw", None, 6, "ethan"))
        w.send("session.update", session={"input_audio_format": "mp3"})
        self.assertEqual(w.event()["error"]["param"], "session.audio.input.format")
        w.send("conversation.item.create", item=text_item("Hi"))
        self.assertEqual(w.event()["type"], "conversation.item.created")
        events = self.ask(w)
        text = joined(events, "response.text.delta")
        self.assertEqual(text, self.chat_text([{"role": "user", "content": "Hi"}], temperature=0.8))
        self.assertEqual(events[-1]["response"]["output"][0]["content"], [{"type": "text", "text": text}])
        w.send("conversation.item.create", item=text_item("Yes", "assistant"))
        self.assertEqual(w.event()["item"]["content"], [{"type": "text", "text": "Yes"}])
        events = self.ask(w, modalities=["audio", "text"])
        names = {e["type"] for e in events}
        self.assertTrue({"response.audio.delta", "response.audio.done", "response.audio_transcript.delta", "response.audio_transcript.done"} <= names)
        self.assertFalse({n for n in names if "output_audio" in n or "output_text" in n or n == "conversation.item.done"})
        self.assertEqual(events[-1]["response"]["output"][0]["content"][0]["type"], "audio")

    # ---- connections

    def test_frames(self):
        w = self.open()
        data = json.dumps({"type": "session.update", "session": {"instructions": "é" * 1000}}).encode()
        w.raw(w.frame(data[:7], fin=False) + w.frame(b"ping", 9) + w.frame(b"", 0, fin=False) + w.frame(data[7:], 0))
        self.assertEqual(w.event()["session"]["instructions"], "é" * 1000)
        frame = w.frame(json.dumps({"type": "input_audio_buffer.clear"}).encode())
        for i in range(len(frame)):
            w.raw(frame[i:i + 1])
        self.assertEqual(w.event()["type"], "input_audio_buffer.cleared")
        w.raw(frame * 50)
        for _ in range(50):
            self.assertEqual(w.event()["type"], "input_audio_buffer.cleared")
        for bad, code in [(w.frame(b"x", 2), 1003), (w.frame(bytes(5 << 20)), 1009), (w.frame(b"x", 0), 1002), (w.frame(b"x", 3), 1002),
                          (w.frame(b"x" * 200, 9), 1002), (b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff", 1002)]:
            other = self.open()
            with self.assertRaises((Closed, ConnectionError)) as e:
                other.raw(bad)
                other.event()
            if isinstance(e.exception, Closed) and e.exception.code is not None:
                self.assertEqual(e.exception.code, code)
        w.raw(frame)
        self.assertEqual(w.event()["type"], "input_audio_buffer.cleared")

    def test_client_goes_away(self):
        for how in ["close", "reset", "frame"]:
            w = self.open(modality="audio", **self.endless())
            self.add(w, text_item("x"))
            w.send("response.create")
            w.until("response.output_audio.delta")
            if how == "reset":
                w.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if how == "frame":
                w.raw(w.frame(struct.pack("!H", 1000), 8))
            else:
                w.close()
            self.server.wait_until(lambda: self.server.metric("omni_engine_requests") == 0)

    def add_first(self, w, item):
        """Whether there is room for it."""
        w.send("conversation.item.create", item=item, previous_item_id="root")
        e = w.event()
        if e["type"] == "error":
            self.assertEqual(e["error"]["code"], "conversation_full")
            return False
        self.assertEqual(w.event()["type"], "conversation.item.done")
        return True

    def test_a_conversation_without_room(self):
        """What was told to begin is told to end."""
        w = self.open()
        self.add(w, text_item("Hi"))
        fits = lambda n: self.add_first(w, text_item("x" * n, id="last"))
        while fits(1 << 20):  # large ones first
            w.send("conversation.item.delete", item_id="last")
            w.event()
            self.assertTrue(self.add_first(w, text_item("x" * (1 << 20))))
        low, high = 0, 1 << 20
        while high - low > 1:  # and then one that leaves not a byte
            middle = (low + high) // 2
            if fits(middle):
                w.send("conversation.item.delete", item_id="last")
                self.assertEqual(w.event()["type"], "conversation.item.deleted")
                low = middle
            else:
                high = middle
        self.assertTrue(fits(low))
        for tools in [[], [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}]]:
            w.send("response.create", response={"tools": tools, "tool_choice": "required" if tools else "auto", "max_output_tokens": 60})
            events = [w.event()]
            while events[-1]["type"] != LAST:
                events.append(w.event())
            begun, ended = ([e["item"] for e in events if e["type"] == "response.output_item." + t] for t in ["added", "done"])
            self.assertEqual([(b["id"], d["status"]) for b, d in zip(begun, ended, strict=True)], [(begun[0]["id"], "incomplete")])
            response = events[-1]["response"]
            self.assertEqual(response["status"], "failed", response)
            self.assertEqual(response["status_details"]["error"]["code"], "limit_exceeded")
            self.assertEqual([o["id"] for o in response["output"]], [begun[0]["id"]])
            self.assertIn("conversation_full", [e["error"]["code"] for e in events if e["type"] == "error"])

    def test_reader_that_does_not_read(self):
        w = self.open(modality="audio", **self.endless())
        self.add(w, text_item("x"))
        w.send("response.create")
        w.until("response.output_audio.delta")
        time.sleep(1)
        self.assertEqual(len(self.server.chat("Hi")["choices"]), 1)
        for _ in range(200):
            w.send("conversation.item.retrieve", item_id="none")
        w.send("response.cancel")
        end = time.monotonic() + harness.LONG
        while w.event()["type"] != LAST:
            self.assertLess(time.monotonic(), end)

    def test_plain_http(self):
        self.assertEqual(self.server.json("GET", "/v1/realtime", status=426)["error"]["code"], "upgrade_required")
        for path, status in [("/v1/chat/completions", 405), ("/v1/models", 400), ("/nothing", 404)]:
            with self.assertRaises(Refused) as e:
                WebSocket(self.server.port, path)
            self.assertEqual(e.exception.status, status)
            self.assertEqual(set(json.loads(e.exception.body)["error"]), {"message", "type", "param", "code"})
        self.assertTrue(self.server.json("GET", "/props")["realtime"])

    def test_origin(self):
        for origin in ["http://evil.example", "null", f"http://127.0.0.1:{self.server.port}.evil.example", "http://127.0.0.1:1"]:
            with self.assertRaises(Refused) as e:
                WebSocket(self.server.port, headers={"Origin": origin})
            self.assertEqual(e.exception.status, 403)
        WebSocket(self.server.port, headers={"Origin": f"http://127.0.0.1:{self.server.port}"}).close()


class Long(Sessions):
    """Conversations that outgrow a context of 256 tokens."""
    FLAGS = ["--parallel", 2, "--ctx-size", 256]

    def talk(self, w, turns):
        for i in range(turns):
            self.add(w, text_item(f"This is question number {i}, and it is as long as it is."))
            done = self.ask(w)[-1]["response"]
            self.assertIn(done["status"], ["completed", "incomplete"])  # of 6 tokens
        return done

    def test_oldest_go(self):
        """As if the conversation had begun later: the answer is that to its newest part, which chat completions give."""
        w = self.open(instructions="Be brief.")
        self.assertLessEqual(self.talk(w, 20)["usage"]["input_tokens"], 256 - 6)
        items = [e["item"] for e in w.seen if e["type"] == "conversation.item.done"]
        self.assertEqual(len(items), 40)
        w.send("conversation.item.retrieve", item_id=items[0]["id"])
        self.assertEqual(w.event()["item"]["id"], items[0]["id"])  # it is left out, not forgotten
        texts = [item["content"][0]["text"] for item in items]
        answers = []
        for begin in range(0, 40, 2):
            chat = [{"role": "system", "content": "Be brief."}] + [{"role": "assistant" if i % 2 else "user", "content": texts[i]} for i in range(begin, 39)]
            status, _, data = self.server.ask("POST", "/v1/chat/completions", {"messages": chat, "max_tokens": 6, "seed": 5})
            answers += [json.loads(data)["choices"][0]["message"]["content"]] if status == 200 else []
        self.assertIn(texts[39], answers)

    def test_settings(self):
        w = self.open(truncation="disabled")
        for i in range(20):
            self.add(w, text_item(f"This is question number {i}, and it is as long as it is."))
        self.fails(w, "response.create", None, "context_length_exceeded", "context")
        w.send("session.update", session={"truncation": {"type": "retention_ratio", "retention_ratio": 0.5}})
        self.assertEqual(w.event()["type"], "session.updated")
        self.assertLessEqual(self.ask(w)[-1]["response"]["usage"]["input_tokens"], 128)
        for bad in ["never", 3, {"type": "retention_ratio"}, {"type": "retention_ratio", "retention_ratio": 0}, {"type": "retention_ratio", "retention_ratio": 2}]:
            self.fails(w, "session.update", "session.truncation", "invalid_value", "retention_ratio", session={"truncation": bad})


class Turns(Sessions):
    """server_vad. Sound is sent as fast as it goes."""

    def test_turn(self):
        w = self.open({"type": "server_vad"})
        self.say(w, SILENCE, VOICE, SILENCE)
        events = w.until(LAST)
        names = [e["type"] for e in events]
        self.assertEqual(names[:6], ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed",
                                     "conversation.item.added", "conversation.item.done", "response.created"])
        start, stop = events[0], events[1]
        # The voice begins after 1000 ms, 300 ms of padding before it, and ends after 2500.
        self.assertTrue(600 <= start["audio_start_ms"] <= 850 and 2350 <= stop["audio_end_ms"] <= 2600, (start, stop))
        self.assertEqual(len({start["item_id"], stop["item_id"], events[2]["item_id"], events[3]["item"]["id"]}), 1)
        w.send("conversation.item.retrieve", item_id=start["item_id"])
        sound = base64.b64decode(w.event()["item"]["content"][0]["audio"])
        self.assertTrue(1.6 < len(sound) / 48000 < 2.1, len(sound) / 48000)
        want = self.chat_text([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": b64(wav(sound)), "format": "wav"}}]}])
        self.assertEqual(joined(events, "response.output_text.delta"), want)

    def test_no_response_of_its_own(self):
        w = self.open({"type": "server_vad", "create_response": False})
        self.say(w, SILENCE, VOICE, SILENCE)
        w.until("conversation.item.done")
        w.send("input_audio_buffer.clear")
        self.assertEqual(w.event()["type"], "input_audio_buffer.cleared")

    def test_telephone_turns(self):
        for kind, quiet in [("audio/pcmu", b"\xff"), ("audio/pcma", b"\xd5")]:
            w = self.open(audio={"input": {"format": {"type": kind}, "turn_detection": {"type": "server_vad", "create_response": False}}})
            loud = bytes((0x80 if kind == "audio/pcmu" else 0xaa) if i % 66 < 8 else quiet[0] for i in range(12000))  # pulses at 121 Hz
            self.say(w, quiet * 8000, loud, quiet * 8000)
            events = w.until("conversation.item.done")
            self.assertTrue(600 <= events[0]["audio_start_ms"] <= 850 and 2350 <= events[1]["audio_end_ms"] <= 2600, events[:2])

    def test_barge_in(self):
        w = self.open({"type": "server_vad"}, modality="audio", **self.endless())
        self.say(w, SILENCE, VOICE, SILENCE)
        w.until("response.output_audio.delta")
        self.say(w, VOICE)
        events = w.until("input_audio_buffer.speech_started")
        at = time.monotonic()
        after = w.until(LAST)
        self.assertLess(time.monotonic() - at, 2)  # 0.1 s on a machine that does nothing else
        self.assertFalse([e for e in after if e["type"] == "response.output_audio.delta"])
        r = after[-1]["response"]
        self.assertEqual((r["status"], r["status_details"]["reason"]), ("cancelled", "turn_detected"))
        item = r["output"][0]
        ms = len(sound_of(w.seen)) // 48
        w.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=min(ms, 80))
        w.until("conversation.item.truncated")
        w.send("conversation.item.retrieve", item_id=item["id"])
        kept = w.event()["item"]["content"][0]["transcript"]
        self.assertTrue(item["content"][0]["transcript"].startswith(kept))
        self.assertLess(len(kept), max(8, len(item["content"][0]["transcript"])))
        # The second turn is answered.
        w.send("session.update", session={"max_output_tokens": 4, "output_modalities": ["text"]})
        self.say(w, SILENCE)
        w.until("response.created")
        self.assertIn(w.until(LAST)[-1]["response"]["status"], ("completed", "incomplete"))

    def test_without_interruption(self):
        w = self.open({"type": "server_vad", "interrupt_response": False}, max_output_tokens=200)
        self.say(w, SILENCE, VOICE, SILENCE)
        w.until("response.output_text.delta")
        self.say(w, VOICE, SILENCE)
        self.assertIn(w.until(LAST)[-1]["response"]["status"], ("completed", "incomplete"))
        w.until("response.created")

    def test_truncate_while_a_turn_waits(self):
        """The answer to what was said meanwhile knows of the cut."""
        w = self.open({"type": "server_vad", "interrupt_response": False}, "audio", **self.endless())
        self.say(w, SILENCE, VOICE, SILENCE)
        w.until("response.output_audio.delta")
        item = next(e["item_id"] for e in w.seen if e["type"] == "response.output_audio.delta")
        self.say(w, VOICE, SILENCE)
        w.until("input_audio_buffer.committed")
        w.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=20)
        kinds = [e["type"] for e in w.until("response.created")]
        self.assertLess(kinds.index(LAST), kinds.index("conversation.item.truncated"))
        # What cannot be cut is refused, and the turn is answered all the same.
        w.until("response.output_audio.delta")
        item = w.seen[-1]["item_id"]
        self.say(w, VOICE, SILENCE)
        w.until("input_audio_buffer.committed")
        w.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=-1)
        w.until("error")
        w.until("response.created")

    def test_idle(self):
        w = self.open({"type": "server_vad", "idle_timeout_ms": 300})
        self.say(w, SILENCE, VOICE, SILENCE)
        w.until(LAST)
        self.say(w, SILENCE)
        events = w.until(LAST)
        self.assertEqual([e["type"] for e in events[:4]], ["input_audio_buffer.timeout_triggered", "input_audio_buffer.committed", "conversation.item.added",
                                                           "conversation.item.done"])
        self.assertEqual(events[0]["item_id"], events[2]["item"]["id"])
        self.assertLessEqual(events[0]["audio_end_ms"] - events[0]["audio_start_ms"], 300)

    def test_idle_taken_back(self):
        w = self.open({"type": "server_vad", "idle_timeout_ms": 1000})
        self.say(w, SILENCE, VOICE, SILENCE)
        w.until(LAST)
        w.send("session.update", session={"audio": {"input": {"turn_detection": {"type": "server_vad"}}}})
        w.until("session.updated")
        time.sleep(1.3)
        w.send("input_audio_buffer.clear")
        self.assertEqual(w.event()["type"], "input_audio_buffer.cleared")

    def test_commit_while_speaking(self):
        w = self.open({"type": "server_vad"})
        self.say(w, SILENCE, VOICE)
        started = w.until("input_audio_buffer.speech_started")[-1]
        w.send("input_audio_buffer.commit")
        self.assertEqual(w.until("input_audio_buffer.committed")[-1]["item_id"], started["item_id"])


class Heard(Sessions):
    """What was said, in words, and whether it is over: the model's own answers to the questions that docs/server.md has."""

    def asked(self, sound, question, **fields):
        return self.chat_text([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": b64(wav(sound)), "format": "wav"}},
                                                            {"type": "text", "text": question}]}], temperature=0, **fields)

    def sound(self, w, item):
        w.send("conversation.item.retrieve", item_id=item)
        return base64.b64decode(w.until("conversation.item.retrieved")[-1]["item"]["content"][0]["audio"])

    def transcript(self, w):
        events = w.until("conversation.item.input_audio_transcription.completed")
        done = events[-1]
        self.assertEqual(done["content_index"], 0)
        self.assertEqual(joined(events, "conversation.item.input_audio_transcription.delta"), done["transcript"])
        return done

    def test_transcription(self):
        w = self.open(audio={"input": {"turn_detection": None, "transcription": {"model": "x", "language": "de", "prompt": "Omni"}}})
        self.assertEqual(w.seen[-1]["session"]["audio"]["input"]["transcription"], {"model": "x", "language": "de", "prompt": "Omni"})
        w.send("input_audio_buffer.append", audio=b64(VOICE))
        w.send("input_audio_buffer.commit")
        item = w.until("conversation.item.done")[-1]["item"]["id"]
        done = self.transcript(w)
        self.assertEqual(done["item_id"], item)
        most = 64 + int(12 * 1.5)
        question = "Transcribe the German audio into text.\nContext: Omni"
        self.assertEqual(done["transcript"], self.asked(VOICE, question, max_tokens=most))
        self.assertEqual(done["usage"]["type"], "tokens")
        self.assertTrue(0 < done["usage"]["output_tokens"] <= most and done["usage"]["input_tokens"] > 20)
        w.send("conversation.item.retrieve", item_id=item)
        self.assertEqual(w.event()["item"]["content"][0]["transcript"], done["transcript"])
        w.send("session.update", session={"audio": {"input": {"transcription": None}}})
        self.assertIsNone(w.event()["session"]["audio"]["input"]["transcription"])
        self.fails(w, "session.update", "session.audio.input.transcription.language", say="English", session={"audio": {"input": {"transcription": {"language": "xx"}}}})
        self.fails(w, "session.update", "session.audio.input.transcription.prompt", session={"audio": {"input": {"transcription": {"prompt": 1}}}})

    def test_session_of_transcription(self):
        for beta in [False, True]:
            w = WebSocket(self.server.port, "/v1/realtime?intent=transcription", headers={"OpenAI-Beta": "realtime=v1"} if beta else {})
            self.addCleanup(w.close)
            s = w.event()
            if beta:
                self.assertEqual((s["type"], s["session"]["object"]), ("transcription_session.created", "realtime.transcription_session"))
                w.event()
                w.send("transcription_session.update", session={"input_audio_transcription": {"model": "x"}, "include": ["item.input_audio_transcription.logprobs"]})
                self.assertEqual(w.event()["type"], "transcription_session.updated")
            else:
                self.assertEqual((s["type"], s["session"]["type"]), ("session.created", "transcription"))
                self.assertNotIn("output_modalities", s["session"])
                w.send("session.update", session={"type": "transcription", "include": ["item.input_audio_transcription.logprobs"]})
                self.assertEqual(w.event()["type"], "session.updated")
            self.say(w, SILENCE, VOICE, SILENCE)
            done = self.transcript(w)
            self.assertEqual("".join(t["token"] for t in done["logprobs"])[:5], done["transcript"][:5])
            self.assertTrue(all(set(t) == {"token", "logprob", "bytes"} and t["logprob"] <= 0 for t in done["logprobs"]))
            self.assertNotIn("response.created", [e["type"] for e in w.seen])
            self.fails(w, "response.create", "type")

    def test_transcription_beside_the_answer(self):
        w = self.open({"type": "server_vad"}, audio={"input": {"transcription": {}, "turn_detection": {"type": "server_vad"}}})
        self.say(w, SILENCE, VOICE, SILENCE)
        need = {LAST, "conversation.item.input_audio_transcription.completed"}
        while need:
            need.discard(w.event()["type"])

    def test_the_model_ends_turns(self):
        question = ("Has the speaker of this audio finished what they wanted to say, so that it is time to answer? A sentence that breaks off, a word that "
                    "is drawn out or a thought that clearly goes on means no. Answer yes or no.")
        for eagerness, pause, most in [("high", 250, 2000), ("auto", 400, 4000)]:
            w = self.open({"type": "semantic_vad", "eagerness": eagerness})
            self.assertEqual(w.seen[-1]["session"]["audio"]["input"]["turn_detection"], {
                "type": "semantic_vad", "eagerness": eagerness, "create_response": True, "interrupt_response": True})
            self.say(w, SILENCE, VOICE, bytes(48 * (pause + 150)))
            start = w.until("input_audio_buffer.speech_started")[-1]
            at = time.monotonic()
            stop = w.until("input_audio_buffer.speech_stopped")[-1]
            waited = time.monotonic() - at
            w.until(LAST)
            self.assertTrue(2350 <= stop["audio_end_ms"] <= 2600, stop)
            # What the model was asked about: from the beginning, with the pause. A frame more or less changes nothing of a clear answer.
            sound = (SILENCE + VOICE + bytes(48 * pause))[48 * start["audio_start_ms"]:]
            if self.asked(sound, question, grammar='root ::= "yes" | "no"') == "no":
                self.assertGreater(waited, (most - pause) / 2000)
            # Silence that comes faster than time goes counts as well; speech that comes back before it is one turn.
            self.say(w, VOICE, bytes(48 * (most + 500)))
            w.until(LAST)
        self.fails(w, "session.update", "session.audio.input.turn_detection.eagerness", session={"audio": {"input": {"turn_detection": {
            "type": "semantic_vad", "eagerness": "some"}}}})


class Keys(Case):
    FLAGS = ["--api-key", "k", "--api-key", "l", "--cors", "https://page.example"]

    def test_keys(self):
        for how in [{"headers": {"Authorization": "Bearer k"}}, {"headers": {"X-API-Key": "l"}}, {"protocols": ["realtime", "openai-insecure-api-key.k"]},
                    {"protocols": ["realtime", "openai-insecure-api-key.l", "openai-beta.realtime-v1"]},
                    {"headers": {"Authorization": "Bearer k", "Origin": "https://page.example"}}]:
            w = WebSocket(self.server.port, **how)
            self.assertEqual(w.event()["type"], "session.created")
            w.close()
        for how in [{}, {"headers": {"Authorization": "Bearer x"}}, {"protocols": ["realtime", "openai-insecure-api-key.kk"]},
                    {"protocols": ["realtime", "openai-insecure-api-key."]}]:
            with self.assertRaises(Refused) as e:
                WebSocket(self.server.port, **how)
            self.assertEqual((e.exception.status, json.loads(e.exception.body)["error"]["code"]), (401, "invalid_api_key"))


class End(Case):
    @classmethod
    def setUpClass(cls):
        pass

    @classmethod
    def tearDownClass(cls):
        pass

    def test_rate(self):
        """A session is a request, and so is each of its answers."""
        server = Server("--rate-limit", 3)
        w = WebSocket(server.port)
        w.until("session.created")
        w.send("session.update", session={"output_modalities": ["text"], "max_output_tokens": 2})
        w.until("session.updated")
        w.send("conversation.item.create", item=text_item("Hello!"))
        w.until("conversation.item.done")
        for _ in range(2):
            w.send("response.create")
            w.until(LAST)
        w.send("response.create")
        e = w.event()
        self.assertEqual((e["type"], e["error"]["type"], e["error"]["code"]), ("error", "rate_limit_error", "rate_limit_exceeded"))
        w.send("input_audio_buffer.clear")
        self.assertEqual(w.event()["type"], "input_audio_buffer.cleared")
        w.close()
        self.assertEqual(server.stop(), 0)

    def test_refused_answer(self):
        """A session whose answer the full queue refuses keeps nothing of its media decoded, and answers later as if it had not been asked."""
        server = Server("--parallel", 1, "--queue", 1, "--ctx-size", 4096)
        w = WebSocket(server.port)
        w.until("session.created")
        w.send("session.update", session={"type": "realtime", "output_modalities": ["text"], "seed": 5, "max_output_tokens": 6})
        w.send("conversation.item.create", item={"type": "message", "role": "user", "content": [
            {"type": "input_image", "image_url": data_url("image/jpeg", PICTURE)}, {"type": "input_text", "text": "What is this?"}]})
        w.until("conversation.item.done")
        body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 100000}).encode()
        crowd = [server.raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body) for _ in range(2)]
        server.wait_until(lambda: server.metric("omni_engine_requests") == 2)
        w.send("response.create")
        self.assertEqual(w.until("error")[-1]["error"]["code"], "queue_full")
        for s in crowd:
            s.close()
        server.wait_until(lambda: server.metric("omni_engine_requests") == 0)
        w.send("response.create")
        said = joined(w.until(LAST), "response.output_text.delta")
        self.assertEqual(said, server.chat([{"type": "image_url", "image_url": {"url": data_url("image/jpeg", PICTURE)}}, {"type": "text", "text": "What is this?"}])[
            "choices"][0]["message"]["content"])
        w.close()
        self.assertEqual(server.stop(), 0)

    def test_shutdown(self):
        server = Server("--parallel", 2, "--grace", 60)
        idle, busy = WebSocket(server.port), WebSocket(server.port)
        self.assertEqual(idle.event()["type"], "session.created")
        busy.event()
        busy.send("session.update", session={"output_modalities": ["text"], "max_output_tokens": 60})
        busy.send("conversation.item.create", item=text_item("x"))
        busy.send("response.create")
        busy.until("response.output_text.delta")
        codes = []

        def wait():
            codes.append(server.stop(signal.SIGTERM))

        t = threading.Thread(target=wait)
        t.start()
        with self.assertRaises(Closed) as e:
            idle.event()
        self.assertEqual(e.exception.code, 1001)
        idle.close()
        self.assertIn(busy.until(LAST)[-1]["response"]["status"], ("completed", "incomplete"))
        with self.assertRaises(Closed) as e:
            busy.event()
        self.assertEqual(e.exception.code, 1001)
        busy.close()
        t.join()
        self.assertEqual(codes, [0])

    def test_dead_client(self):
        server = Server("--timeout", 2)
        w = WebSocket(server.port)
        with self.assertRaises((Closed, ConnectionError)):
            end = time.monotonic() + 60
            while time.monotonic() < end:
                w.message(pong=False)
        alive = WebSocket(server.port)
        alive.event()
        time.sleep(0.1)
        end = time.monotonic() + 5
        while time.monotonic() < end:  # who answers pings stays
            alive.s.settimeout(1)
            try:
                alive.message()
            except TimeoutError:
                pass
        alive.send("input_audio_buffer.clear")
        alive.s.settimeout(harness.LONG)
        self.assertEqual(json.loads(alive.message())["type"], "input_audio_buffer.cleared")
        alive.close()
        w.close()
        self.assertEqual(server.stop(), 0)

    def test_many_sessions(self):
        server = Server()
        all = [WebSocket(server.port) for _ in range(256)]
        self.assertEqual(all[-1].event()["type"], "session.created")
        with self.assertRaises(Refused) as e:
            WebSocket(server.port)
        self.assertEqual(e.exception.status, 429)
        all.pop().close()
        server.wait_until(lambda: len([1 for _ in [0] if self.opens(server)]) == 1)
        for w in all:
            w.close()
        self.assertEqual(server.stop(), 0)

    def opens(self, server):
        try:
            WebSocket(server.port).close()
            return True
        except Refused:
            return False
