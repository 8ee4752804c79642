#!/usr/bin/env python3
"""omni serve under load, on loopback: bench/server_load.py [--omni build/omni] [--model models/tiny] [PART...]

PARTS (all of them without a name):
  load          64 streams for a minute and 256 idle connections: errors, time to first token, memory; every answer is the one that is given alone
  health        GET /health through wrk (Debian's package wrk)
  conversation  a conversation of 4,000 tokens goes on: how many rows its second question computes, without and with a picture
  added         what HTTP adds to the engine's own time to first token and to first sound

Prints a line a figure; the bar and whether it was met stand behind it. Exits with 1 if one was missed. Nothing but Python's library is needed."""
import argparse
import asyncio
import base64
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
missed = []


def say(name, value, bar=None, met=True):
    print(f"{name:44} {value:>18}" + (f"   {bar}: {'met' if met else 'MISSED'}" if bar else ""), flush=True)
    if not met:
        missed.append(name)


class Server:
    """A server on a free port; its log goes nowhere once it listens."""

    def __init__(self, o, *flags):
        self.process = subprocess.Popen([o.omni, "serve", "-m", o.model, "--port", "0", "--no-page", *map(str, flags)], stdin=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE)
        self.port = None
        lines = []
        for line in self.process.stderr:
            lines.append(line.decode(errors="replace"))
            m = re.search(r"listening on http://.+:(\d+)", lines[-1])
            if m:
                self.port = int(m.group(1))
                break
        if self.port is None:
            sys.exit("the server did not start: " + "".join(lines))
        self.drain = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.drain.wait(60)
        self.process.stderr.close()
        say("exit status after SIGTERM", code, "0", code == 0)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as r:
            return r.read().decode()

    def post(self, body, path="/v1/chat/completions"):
        r = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(r, timeout=300) as answer:
            return json.load(answer)

    def metrics(self):
        return {m[0]: float(m[1]) for m in re.findall(r"^(\S+) (\S+)$", self.get("/metrics"), re.M)}

    def resident(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as f:
            return int(re.search(r"VmRSS:\s+(\d+) kB", f.read()).group(1)) / 1024


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def head_of(body, path="/v1/chat/completions"):
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


# ---- load ----

def question(i):
    r = random.Random(i)
    words = " ".join(r.choice("the a river stone light seven why over house green slowly tells".split()) for _ in range(r.randrange(4, 120)))
    return {"messages": [{"role": "user", "content": f"{i}: {words}?"}], "max_tokens": 16 + i % 33, "seed": i, "temperature": 0.9, "stream": True}


async def ask(reader, writer, body):
    """(text, seconds to the first of it); the connection stays open."""
    began = time.perf_counter()
    writer.write(head_of(json.dumps(body).encode()))
    first, text, done = None, "", False
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(head.decode(errors="replace").split("\r\n", 1)[0])
    buffer = b""
    while True:
        size = int((await reader.readline()).strip(), 16)
        buffer += (await reader.readexactly(size + 2))[:size]
        if size == 0:
            break
        *events, buffer = buffer.split(b"\n\n")
        for e in events:
            if e == b"data: [DONE]":
                done = True
                continue
            choices = json.loads(e[len(b"data: "):])["choices"]
            piece = choices[0]["delta"].get("content", "") if choices else ""
            if piece and first is None:
                first = time.perf_counter() - began
            text += piece
    if not done:
        raise RuntimeError("a stream without its end")
    return text, first


async def drive(o, server, alone):
    firsts, errors, memory, count, wrong = [], [], [], 0, 0
    idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(o.idle)]
    for i, (reader, writer) in enumerate(idle):  # half have asked something once, half have sent nothing
        if i % 2:
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"}")
    end = time.perf_counter() + o.seconds

    async def stream(k):
        nonlocal count, wrong
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        i = k
        while time.perf_counter() < end:
            try:
                text, first = await ask(reader, writer, question(i % len(alone)))
                count += 1
                wrong += text != alone[i % len(alone)]
                if first is not None:
                    firsts.append(first)
            except Exception as e:  # every kind of failure is one error of the server's
                errors.append(repr(e))
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            i += 37
        writer.close()

    async def watch():
        while time.perf_counter() < end:
            memory.append(server.resident())
            await asyncio.sleep(1)

    await asyncio.gather(watch(), *(stream(k) for k in range(o.streams)))
    lost = 0
    for i, (reader, writer) in enumerate(idle):
        try:
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b"}"), 10)
            writer.close()
        except Exception:
            lost += 1
    return firsts, errors, memory, count, wrong, lost


def part_load(o):
    single = Server(o, "--parallel", 1)
    alone = []
    for i in range(o.questions):
        alone.append(single.post({**question(i), "stream": False})["choices"][0]["message"]["content"])
    single.stop()
    server = Server(o, "--parallel", o.streams, "--ctx-size", 1024, "--timeout", 2 * int(o.seconds) + 60)
    firsts, errors, memory, count, wrong, lost = asyncio.run(drive(o, server, alone))
    m = server.metrics()
    server.stop()
    print(f"resident memory, MB, each second: {' '.join(f'{v:.0f}' for v in memory)}")
    say(f"answers of {o.streams} streams in {o.seconds:g} s", count)
    say("answer tokens a second", f"{m['omni_answer_tokens_total'] / o.seconds:.0f}")
    say("errors", len(errors), "none", not errors)
    for e in sorted(set(errors))[:5]:
        print("  ", e)
    say("answers other than those given alone", wrong, "none", wrong == 0 and count > 0)
    say(f"of {o.idle} idle connections lost", lost, "none", lost == 0)
    median, p99 = statistics.median(firsts), quantile(firsts, 0.99)
    say("time to first token, median", f"{1e3 * median:.1f} ms")
    say("time to first token, p99", f"{1e3 * p99:.1f} ms", "under 5 medians", p99 < 5 * median)
    ten, last = memory[min(10, len(memory) - 1)], memory[-1]
    say("resident memory after 10 s", f"{ten:.1f} MB")
    say("resident memory at the end", f"{last:.1f} MB", "within 3% of that", last <= 1.03 * ten)


# ---- health ----

def part_health(o):
    if not shutil.which("wrk"):
        sys.exit("health: wrk is missing (apt-get install wrk)")
    server = Server(o)
    out = subprocess.run(["wrk", "-t1", "-c64", f"-d{o.wrk_seconds}s", "--latency", f"http://127.0.0.1:{server.port}/health"], capture_output=True,
                         text=True, check=True).stdout
    server.stop()
    rate = float(re.search(r"Requests/sec:\s+(\S+)", out).group(1))
    bad = re.search(r"(Socket errors|Non-2xx).*", out)
    say("GET /health, requests a second", f"{rate:.0f}", "over 20,000", rate > 20000)
    say("GET /health, p99", re.search(r"99%\s+(\S+)", out).group(1))
    say("GET /health, errors", bad.group(0) if bad else 0, "none", not bad)


# ---- conversation ----

def part_conversation(o):
    with open(os.path.join(ROOT, "models/media/picture.jpg"), "rb") as f:
        picture = "data:image/jpeg;base64," + base64.b64encode(f.read()).decode()
    server = Server(o, "--parallel", 2)  # the tiny model was made for 4096 tokens
    for name, parts in [("text", []), ("a picture", [{"type": "image_url", "image_url": {"url": picture}}])]:
        r = random.Random(name)
        ask = lambda text: [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
        text = ""
        used = server.post({"messages": ask("?"), "max_tokens": 1})["usage"]["prompt_tokens"]
        while used + len(server.post({"content": text}, "/tokenize")["tokens"]) < 3990:
            text += " ".join(r.choice("river stone light seven over house green slowly tells".split()) for _ in range(4)) + ". "
        messages = ask(text)
        # A random model's answer is hardly ever the text that its tokens are read as again: the greedy one of few tokens is taken as it comes.
        begin, before = time.perf_counter(), server.metrics()
        a = server.post({"messages": messages, "max_tokens": 8, "seed": 1, "temperature": 0})
        middle, between = time.perf_counter(), server.metrics()
        messages += [{"role": "assistant", "content": a["choices"][0]["message"]["content"]}, {"role": "user", "content": "And then?"}]
        b = server.post({"messages": messages, "max_tokens": 8, "seed": 1, "temperature": 0})
        end, after = time.perf_counter(), server.metrics()
        rows = after["omni_engine_rows_total"] - between["omni_engine_rows_total"]
        usage = b["usage"]
        new = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        say(f"{name}: tokens of the second question", usage["prompt_tokens"])
        say(f"{name}: rows computed for the first", f"{between['omni_engine_rows_total'] - before['omni_engine_rows_total']:.0f}")
        say(f"{name}: rows computed for the second", f"{rows:.0f}", "under 130", rows < 130)
        say(f"{name}: usage says, not cached", new, "under 130", new < 130)
        say(f"{name}: seconds of the first, the second", f"{middle - begin:.3f}, {end - middle:.3f}")
    server.stop()


# ---- added ----

def first_of(port, body, found):
    """Seconds from the last byte of a request to the first of its answer's bytes in which `found` is: a blocking socket adds the least of its own."""
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.sendall(head_of(json.dumps(body).encode()))
        began, data, first = time.perf_counter(), b"", None
        while not data.endswith(b"0\r\n\r\n"):
            piece = s.recv(1 << 20)
            if not piece:
                raise RuntimeError("cut: " + data[:200].decode(errors="replace"))
            data += piece
            if first is None and found in data:
                first = time.perf_counter() - began
        if first is None:
            raise RuntimeError("nothing came: " + data[:400].decode(errors="replace"))
        return first


def part_added(o):
    server = Server(o, "--parallel", 2)
    for name, more, found, metric, bar in [("token", {}, b'"content"', "omni_engine_first_token_seconds_sum", 1.0),
                                           ("sound", {"modalities": ["text", "audio"]}, b'"data"', "omni_engine_first_audio_seconds_sum", 3.0)]:
        seen, own = [], []
        for i in range(o.times + 5):
            before = server.metrics()[metric]
            try:
                t = first_of(server.port, {"messages": [{"role": "user", "content": f"{i} Hello?"}], "max_tokens": 12, "seed": i, "stream": True, **more}, found)
            except RuntimeError:
                continue  # an answer of no word
            if i >= 5:
                seen.append(t)
                own.append(server.metrics()[metric] - before)
        added = [1e3 * (a - b) for a, b in zip(seen, own)]
        say(f"first {name}: client, median of {len(seen)}", f"{1e3 * statistics.median(seen):.3f} ms")
        say(f"first {name}: engine's own", f"{1e3 * statistics.median(own):.3f} ms")
        say(f"first {name}: added, median", f"{statistics.median(added):.3f} ms", f"under {bar:g} ms", statistics.median(added) < bar)
        say(f"first {name}: added, p90", f"{quantile(added, 0.9):.3f} ms")
    server.stop()


def main():
    parts = {"load": part_load, "health": part_health, "conversation": part_conversation, "added": part_added}
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("parts", nargs="*", metavar="PART")
    a.add_argument("--omni", default=os.path.join(ROOT, "build/omni"))
    a.add_argument("--model", default=os.path.join(ROOT, "models/tiny"))
    a.add_argument("--streams", type=int, default=64)
    a.add_argument("--idle", type=int, default=256)
    a.add_argument("--seconds", type=float, default=60)
    a.add_argument("--questions", type=int, default=200, help="different ones")
    a.add_argument("--wrk-seconds", type=int, default=10)
    a.add_argument("--times", type=int, default=100, help="requests of the part added")
    o = a.parse_args()
    for name in o.parts or parts:
        if name not in parts:
            a.error(f"no part is called {name}")
    print("load of the machine before: " + " ".join(f"{v:.2f}" for v in os.getloadavg()))
    for name in o.parts or parts:
        print(f"-- {name}")
        parts[name](o)
    if missed:
        print("missed: " + "; ".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
