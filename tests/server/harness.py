"""A server on a free port of loopback with the tiny random model, and a client that knows nothing of OpenAI."""
import atexit
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TINY = os.path.join(ROOT, "models/tiny")
OMNI = None  # set by the program that runs the tests
LONG = 120  # seconds, under sanitizers on a busy machine


class Server:
    def __init__(self, *flags, model=TINY, env=None):
        self.process = subprocess.Popen([OMNI, "serve", "-m", model, "--port", "0", *map(str, flags)], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                        env={**os.environ, **(env or {})})
        atexit.register(self.end)  # a test that failed leaves its own behind
        self.lines = []
        self.port = None
        self.listening = threading.Event()
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()
        if not self.listening.wait(LONG) or self.port is None:
            self.process.kill()
            raise AssertionError("the server did not start: " + "".join(self.lines))

    def read_log(self):
        for line in self.process.stderr:
            self.lines.append(line.decode(errors="replace"))
            m = re.search(r"listening on https?://(.+):(\d+)", self.lines[-1])
            if m and self.port is None:
                self.port = int(m.group(2))
                self.listening.set()
        self.listening.set()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()

    def stop(self, sign=signal.SIGTERM, wait=LONG):
        if self.process.poll() is None:
            self.process.send_signal(sign)
        code = self.process.wait(wait)
        self.reader.join(LONG)
        self.process.stderr.close()
        return code

    def connect(self, timeout=LONG):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def raw(self, data, timeout=LONG):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        s.sendall(data)
        return s

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, bytes)"""
        c = self.connect()
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        c.request(method, path, data, headers or {})
        r = c.getresponse()
        out = r.status, dict(r.getheaders()), r.read()
        c.close()
        return out

    def json(self, method, path, body=None, headers=None, status=200):
        got, _, data = self.ask(method, path, body, headers)
        if got != status:
            raise AssertionError(f"{method} {path}: {got}, not {status}: {data[:600]}")
        return json.loads(data)

    def chat(self, content="What is this?", status=200, headers=None, **fields):
        messages = content if isinstance(content, list) and content and "role" in content[0] else [{"role": "user", "content": content}]
        return self.json("POST", "/v1/chat/completions", {"model": "x", "messages": messages, "max_tokens": 6, "seed": 5, **fields}, headers, status)

    def stream(self, content="What is this?", headers=None, **fields):
        """The objects of a stream, without [DONE], which must end it."""
        messages = content if isinstance(content, list) and content and "role" in content[0] else [{"role": "user", "content": content}]
        status, head, data = self.ask("POST", "/v1/chat/completions",
                                      {"model": "x", "messages": messages, "max_tokens": 6, "seed": 5, "stream": True, **fields}, headers)
        assert status == 200 and head["Content-Type"].startswith("text/event-stream"), (status, head, data)
        events = data.decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""], events[-3:]
        return [json.loads(e[len("data: "):]) for e in events[:-2]]

    def metric(self, name):
        text = self.ask("GET", "/metrics")[2].decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M).group(1))

    def wait_until(self, what, seconds=30):
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end:
                raise AssertionError("it did not come to that")
            time.sleep(0.02)


class Case(unittest.TestCase):
    FLAGS = ["--parallel", 4]

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.FLAGS)

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        assert code == 0, (code, cls.server.lines[-20:])
        bad = [line for line in cls.server.lines if "Sanitizer" in line or "runtime error" in line]
        assert not bad, bad

    def error(self, body, param=None, status=400, say="", path="/v1/chat/completions", headers=None):
        e = self.server.json("POST", path, body, headers, status)["error"]
        self.assertEqual(set(e), {"message", "type", "param", "code"})
        self.assertEqual(e["param"], param)
        self.assertIn(say, e["message"])
        return e
