"""Three omni servers behind a balancer, and people who talk to them. What is asked is known beforehand with its answer, from a server that is asked alone."""
import atexit
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests/server"))
import harness  # noqa: E402

RATE = 24000  # samples a second
TURNS = 4


def free_ports(n):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


class Member(harness.Server):
    """A server on a port of its own, which it takes again after a restart."""

    def __init__(self, port, *flags):
        self.process = None
        atexit.register(self.end)
        super().__init__("--port", port, "--parallel", 8, "--ctx-size", 2048, "--alias", "omni", "--threads", 1, "--grace", 60, *flags)

    def end(self):
        """Whatever happens, none is left behind."""
        if self.process and self.process.poll() is None:
            self.process.kill()


class HAProxy:
    """deploy/haproxy.cfg with other ports; edit: what else is replaced."""

    def __init__(self, ports, edit=None):
        self.port, status = free_ports(2)
        with open(os.path.join(ROOT, "deploy/haproxy.cfg")) as f:
            text = f.read()
        for old, new in {"127.0.0.1:8000": f"127.0.0.1:{self.port}", "127.0.0.1:8404": f"127.0.0.1:{status}",
                         **{f"127.0.0.1:{8081 + i}": f"127.0.0.1:{p}" for i, p in enumerate(ports)}, **(edit or {})}.items():
            assert old in text, old
            text = text.replace(old, new)
        self.file = tempfile.NamedTemporaryFile("w", suffix=".cfg")
        self.file.write(text)
        self.file.flush()
        self.process = subprocess.Popen(["haproxy", "-db", "-q", "-f", self.file.name], stdout=subprocess.DEVNULL)
        self.status = status
        atexit.register(self.process.kill)

    def up(self):
        """How many servers it sends conversations to."""
        try:
            c = http.client.HTTPConnection("127.0.0.1", self.status, timeout=10)
            c.request("GET", "/;csv")
            lines = [line.split(",") for line in c.getresponse().read().decode().splitlines()]
        except OSError:
            return 0
        return sum(line[0] == "conversations" and line[1].startswith("omni") and line[17].startswith("UP") for line in lines)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.file.close()


class Router:
    """A cache-aware model router of PyPI, with plain OpenAI workers."""

    def __init__(self, ports, command, policy):
        self.port, metrics = free_ports(2)
        self.workers = ports
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self.port), "--prometheus-port", str(metrics), "--prometheus-host", "127.0.0.1",
             "--worker-urls", *(f"http://127.0.0.1:{p}" for p in ports), "--policy", policy, *Router.FLAGS],
            stdout=open(os.environ.get("ROUTER_LOG", os.devnull), "a"), stderr=subprocess.STDOUT)
        atexit.register(self.process.kill)

    # Readiness by the second, as HAProxy asks for it; a worker whose connections fail gets nothing for a second.
    FLAGS = ["--health-check-endpoint", "/ready", "--health-check-interval-secs", "1", "--health-check-timeout-secs", "1", "--health-failure-threshold", "1",
             "--health-success-threshold", "1", "--worker-startup-check-interval", "1", "--cb-timeout-duration-secs", "1"]

    def up(self):
        try:
            c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            c.request("GET", "/workers")
            return sum(w["is_healthy"] for w in json.loads(c.getresponse().read())["workers"])
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return 0

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def make_questions(count, speeches):
    """[conversation][turn] of messages, and texts to be said, with the answers that a server gives that is asked alone."""
    chance = random.Random(7)
    words = "river stone garden light window paper music winter summer bread cloud mountain letter candle train story".split()
    server = Member(0)
    talks, said = [], {}
    for c in range(count):
        messages, turns = [], []
        for turn in range(TURNS):
            messages.append({"role": "user", "content": " ".join(chance.choice(words) for _ in range(100 if turn == 0 else 12))})
            body = {"model": "omni", "messages": list(messages), "max_tokens": chance.randint(8, 250), "seed": c, "temperature": 0.8, "stream": True}
            answer = text_of(server.ask("POST", "/v1/chat/completions", body)[2])
            turns.append((body, answer))
            messages.append({"role": "assistant", "content": answer.replace("\0", "")})  # a request may hold no NUL
        talks.append(turns)
    for i in range(speeches):
        body = {"input": " ".join(chance.choice(words) for _ in range(12)), "response_format": "pcm", "seed": i}
        said[json.dumps(body)] = server.ask("POST", "/v1/audio/speech", body)[2]
    assert server.stop() == 0
    return talks, said


def text_of(data):
    events = data.decode().split("\n\n")
    if events[-2:] != ["data: [DONE]", ""]:
        raise http.client.IncompleteRead(data)
    return "".join(json.loads(e[6:])["choices"][0]["delta"].get("content") or "" for e in events[:-2])


class Answer:
    """One request: when it began and ended, who served it, and what became of it: right, wrong, cut (after its first byte), or an error."""

    def __init__(self, port, path, body, headers):
        self.began, self.what, self.detail, self.server, self.late, self.data = time.monotonic(), "error", "", "", 0.0, b""
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
        try:
            c.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
            r = c.getresponse()
            self.server = r.getheader("x-served-by") or r.getheader("x-smg-routed-worker-id") or ""
            if r.status != 200:
                self.detail = f"{r.status} {r.read()[:200]!r}"
            else:
                self.what = "cut"
                self.read(r)
                self.what = "whole"
        except (OSError, http.client.HTTPException) as e:
            self.detail = repr(e)[:200]
        finally:
            c.close()
        self.ended = time.monotonic()

    def read(self, r):
        """Plays what comes as it comes: late is for how long there was nothing to play."""
        heard_until = None
        while piece := r.read1(65536):
            now = time.monotonic()
            if heard_until is not None and now > heard_until:
                self.late += now - heard_until
            heard_until = max(heard_until or now, now) + len(piece) / 2 / RATE
            self.data += piece

    def judge(self, expected, value):
        if self.what == "whole":
            try:
                self.what = "right" if value(self.data) == expected else "wrong"
            except http.client.IncompleteRead:
                self.what = "cut"
        return self


class Crowd:
    """Threads that hold conversations, and others that have texts said, until told to stop."""

    def __init__(self, port, talks, said, talkers, listeners, named=True):
        self.port, self.talks, self.said, self.named = port, talks, list(said.items()), named
        self.answers, self.speech, self.lock, self.stopping = [], [], threading.Lock(), threading.Event()
        self.next = 0
        self.threads = [threading.Thread(target=self.talk) for _ in range(talkers)] + [threading.Thread(target=self.listen, args=(i,)) for i in range(listeners)]
        for t in self.threads:
            t.start()

    def talk(self, once=False):
        while not self.stopping.is_set():
            with self.lock:
                number, self.next = self.next, self.next + 1
            for body, expected in self.talks[number % len(self.talks)]:
                headers = {"X-Conversation-Id": f"c{number}"} if self.named else {}
                a = Answer(self.port, "/v1/chat/completions", body, headers).judge(expected, text_of)
                with self.lock:
                    self.answers.append(a)
                if self.stopping.wait(0.02):
                    return

    def listen(self, i):
        while not self.stopping.is_set():
            body, expected = self.said[i % len(self.said)]
            a = Answer(self.port, "/v1/audio/speech", json.loads(body), {}).judge(expected, bytes)
            with self.lock:
                self.speech.append(a)
            i += 1
            self.stopping.wait(0.3)

    def stop(self):
        self.stopping.set()
        for t in self.threads:
            t.join()


def each_once(port, talks, headers_of, threads=6):
    """Every conversation once, several at a time. Answers by conversation."""
    out = [[] for _ in talks]
    todo = list(range(len(talks)))

    def work():
        while todo:
            try:
                c = todo.pop()
            except IndexError:
                return
            for body, expected in talks[c]:
                out[c].append(Answer(port, "/v1/chat/completions", body, headers_of(c)).judge(expected, text_of))

    running = [threading.Thread(target=work) for _ in range(threads)]
    for t in running:
        t.start()
    for t in running:
        t.join()
    return out


def found_share(servers):
    """Of the tokens of prompts, those that were not computed again."""
    return sum(s.metric("omni_cached_tokens_total") for s in servers) / sum(s.metric("omni_prompt_tokens_total") for s in servers)


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise AssertionError("it did not come to that")
        time.sleep(0.05)
