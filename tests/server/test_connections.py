"""What connections do: go away, come in pieces, read slowly, ask for nonsense; and how the server ends."""
import http.client
import json
import signal
import socket
import threading
import time

import harness
from harness import Case, Server

LONG_ANSWER = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 100000, "seed": 1, "stream": True, "logit_bias": {}, "stop": []}).replace(
    ', "stop": []', "").encode()


def head(path, size, extra=""):
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n{extra}\r\n".encode()


class Connections(Case):
    FLAGS = ["--parallel", 2, "--timeout", 2, "--ctx-size", 4096, "--max-body", 1 << 20]

    def idle(self):
        return self.server.metric("omni_engine_requests") == 0

    def test_keep_alive(self):
        c = self.server.connect()
        for path in ["/health", "/v1/models", "/nothing", "/health"]:
            c.request("GET", path)
            r = c.getresponse()
            r.read()
            self.assertEqual(r.getheader("Connection"), "keep-alive")
        for i in range(3):
            body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "stream": i == 1})
            c.request("POST", "/v1/chat/completions", body)
            self.assertEqual(c.getresponse().read()[:1], b"d" if i == 1 else b"{")
        c.close()

    def test_http_1_0(self):
        body = b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": true}'
        s = self.server.raw(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        data = b""
        while piece := s.recv(65536):
            data += piece
        self.assertTrue(data.endswith(b"data: [DONE]\n\n"), data[-80:])
        self.assertNotIn(b"Transfer-Encoding", data)

    def test_client_goes_away(self):
        for stream in [True, False]:
            body = LONG_ANSWER if stream else LONG_ANSWER.replace(b"true", b"false")
            s = self.server.raw(head("/v1/chat/completions", len(body)) + body)
            if stream:
                self.assertTrue(s.recv(100))
            else:
                self.server.wait_until(lambda: not self.idle())
            s.close()
            start = time.monotonic()
            self.server.wait_until(self.idle, 20)
            self.assertLess(time.monotonic() - start, 1 if harness.LONG < 200 else 10)

    def test_request_in_pieces(self):
        body = b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}'
        data = head("/v1/chat/completions", len(body), "Connection: close\r\n") + body
        s = self.server.raw(data[:1])
        for i in range(1, len(data)):
            s.sendall(data[i:i + 1])
        out = b""
        while piece := s.recv(65536):
            out += piece
        self.assertTrue(out.startswith(b"HTTP/1.1 200 "), out[:200])

    def test_cut_everywhere(self):
        body = b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}'
        data = head("/v1/chat/completions", len(body)) + body
        for n in range(len(data)):
            self.server.raw(data[:n]).close()
        self.assertEqual(self.server.json("GET", "/health"), {"status": "ok"})
        self.server.wait_until(self.idle)

    def test_slow_body(self):
        s = self.server.raw(head("/v1/chat/completions", 1000) + b"{")
        self.assertEqual(s.recv(100), b"")  # closed after --timeout
        s.close()

    def test_slow_reader_holds_nobody_up(self):
        slow = [self.server.raw(head("/v1/chat/completions", len(LONG_ANSWER)) + LONG_ANSWER) for _ in range(2)]
        self.assertEqual(self.server.chat(max_tokens=3)["usage"]["completion_tokens"], 3)
        for s in slow:
            s.close()
        self.server.wait_until(self.idle)

    def test_nonsense(self):
        for data in [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"A" * 70000, b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
                     b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 20000 + b"\r\n", b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /%00%zz HTTP/1.1\r\nHost: x\r\n\r\n",
                     b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                     b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                     b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]:
            s = self.server.raw(b"")
            try:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
            except OSError:
                pass
            s.close()
            self.assertEqual(self.server.json("GET", "/health"), {"status": "ok"})

    def test_large(self):
        for size in [1, 1 << 20, 8 << 20]:  # over the limit: the answer arrives all the same
            status, _, data = self.server.ask("POST", "/v1/chat/completions", b"x" * ((1 << 20) + size))
            self.assertEqual((status, json.loads(data)["error"]["code"]), (413, "request_too_large"))
        asked = self.server.raw(head("/tokenize", 16, "Expect: 100-continue\r\nConnection: close\r\n"))
        self.assertEqual(asked.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
        asked.sendall(b'{"content": "x"}')
        self.assertTrue(asked.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n"))
        asked.close()
        s = self.server.raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertIn(b" 411 ", s.recv(1000))
        s.close()

    def test_chunks(self):
        """A body of unknown length, as OpenAI's JavaScript client sends files."""
        start = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        whole = b'5\r\n{"con\r\na;x=y\r\ntent": "ab\r\n3\r\nc"}\r\n0\r\nA: b\r\n\r\n'
        expected = self.server.json("POST", "/tokenize", {"content": "abc"})

        def answer(*pieces):
            s = self.server.raw(pieces[0])
            for p in pieces[1:]:
                time.sleep(0.01)
                s.sendall(p)
            r = http.client.HTTPResponse(s)
            r.begin()
            self.assertEqual(r.headers["Connection"], "close")
            body = json.loads(r.read())
            s.close()
            return r.status, body

        self.assertEqual(answer(start + whole), (200, expected))
        for cut in range(1, len(whole), 5):
            self.assertEqual(answer(start, whole[:cut], whole[cut:]), (200, expected))
        self.assertEqual(answer(start + whole + b"GET /health HTTP/1.1\r\n\r\n"), (200, expected))
        self.assertEqual(answer(start + b"x\r\n")[0], 400)
        self.assertEqual(answer(start + b"5\r\nhello5")[0], 400)
        got, said = answer(start + (b"80000\r\n" + b"x" * 0x80000 + b"\r\n") * 2 + b"1\r\nx\r\n")
        self.assertEqual((got, said["error"]["code"]), (413, "request_too_large"))
        self.assertEqual(answer(start.replace(b"Host: x", b"Host: x\r\nContent-Length: 5"))[0], 411)
        for end in [b"", b"5\r\nhe"]:  # it goes away in the middle
            s = self.server.raw(start + end)
            s.close()
        self.assertEqual(self.server.json("GET", "/health"), {"status": "ok"})

    def test_bodies_that_nobody_reads(self):
        """They are no requests: the connection is closed, and what follows is not read as one."""
        for method in [b"GET", b"DELETE", b"OPTIONS", b"PUT"]:
            head = method + b" /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 858\r\n\r\n"
            s = self.server.raw(head)
            answer = s.recv(1000)
            self.assertIn(b"Connection: close", answer)
            try:
                s.sendall(b"x" * 858 + head + b"y" * 500)
                time.sleep(0.05)
            except OSError:
                pass
            s.close()
            self.assertEqual(self.server.json("GET", "/health"), {"status": "ok"})

    def test_idle_connections(self):
        idle = [self.server.raw(b"") for _ in range(100)]
        self.assertEqual(self.server.json("GET", "/health"), {"status": "ok"})
        for s in idle:
            s.close()


class Ending(Case):
    @classmethod
    def setUpClass(cls):
        pass

    @classmethod
    def tearDownClass(cls):
        pass

    def begin(self, server, tokens):
        body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": tokens, "seed": 1, "stream": True}).encode()
        s = server.raw(head("/v1/chat/completions", len(body), "Connection: close\r\n") + body)
        self.assertTrue(s.recv(20))
        return s

    def rest(self, s):
        data = b""
        try:
            while piece := s.recv(65536):
                data += piece
        except OSError:
            pass
        return data

    def test_running_answers_end(self):
        server = Server("--grace", 60)
        s = self.begin(server, 300)
        server.process.send_signal(signal.SIGTERM)
        data = self.rest(s)
        self.assertTrue(data.rstrip().endswith(b"0") and b"[DONE]" in data, data[-100:])
        self.assertEqual(server.stop(), 0)

    def test_grace_is_over(self):
        server = Server("--grace", 0, "--ctx-size", 4096)
        s = self.begin(server, 100000)
        start = time.monotonic()
        self.assertEqual(server.stop(), 0)
        self.assertLess(time.monotonic() - start, harness.LONG / 4)
        self.assertNotIn(b"[DONE]", self.rest(s))

    def test_not_ready_while_it_ends(self):
        server = Server("--grace", 60, "--ctx-size", 4096)
        c = server.connect()
        c.request("GET", "/ready")
        self.assertEqual(c.getresponse().read(), b'{"status":"ready"}')
        s = self.begin(server, 100000)
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: any("shutting down" in line for line in server.lines))
        c.request("GET", "/ready")
        r = c.getresponse()
        self.assertEqual((r.status, json.loads(r.read())["error"]["code"]), (503, "shutting_down"))
        c.close()
        self.assertEqual(server.stop(signal.SIGINT), 0)  # asked twice: at once
        s.close()

    def test_requests_are_taken_while_it_drains(self):
        server = Server("--drain", 3600, "--grace", 60)
        before = server.connect()
        before.request("GET", "/health")
        before.getresponse().read()
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: any("--drain" in line for line in server.lines))
        before.request("GET", "/health")
        self.assertEqual(before.getresponse().getheader("Connection"), "close")  # who balances the load opens the next one elsewhere
        server.json("GET", "/ready", status=503)
        server.json("GET", "/health")
        self.assertEqual(server.chat(max_tokens=2)["usage"]["completion_tokens"], 2)
        self.assertEqual(server.stop(), 0)  # asked twice: at once

    def test_drained(self):
        server = Server("--drain", 4, "--grace", 60)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: any("--drain" in line for line in server.lines))
        s = self.begin(server, 300)
        self.assertIn(b"[DONE]", self.rest(s))
        self.assertEqual(server.process.wait(harness.LONG), 0)
        self.assertGreaterEqual(time.monotonic() - start, 3.9)
        self.assertEqual(server.stop(), 0)

    def test_cannot_listen(self):
        first = Server()
        second = harness.subprocess.run([harness.OMNI, "serve", "-m", harness.TINY, "--port", str(first.port)], capture_output=True, timeout=harness.LONG)
        self.assertEqual(second.returncode, 1)
        self.assertIn(f"port {first.port}".encode(), second.stderr)
        self.assertEqual(first.stop(), 0)

    def test_full(self):
        server = Server("--parallel", 1, "--queue", 1, "--ctx-size", 4096)
        a = self.begin(server, 100000)
        body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 100000}).encode()
        b = server.raw(head("/v1/chat/completions", len(body)) + body)
        server.wait_until(lambda: server.metric("omni_engine_requests") == 2)
        server.wait_until(lambda: server.metric("omni_requests_running") == 1 and server.metric("omni_requests_waiting") == 1)
        self.assertEqual(server.metric('omni_cache_config_info{block_size="64",num_gpu_blocks="64"}'), 1)
        server.wait_until(lambda: 0 < server.metric("omni_cache_usage_ratio") <= 1)
        status, headers, data = server.ask("POST", "/v1/chat/completions", body)
        self.assertEqual((status, json.loads(data)["error"]["code"]), (429, "queue_full"))
        self.assertGreaterEqual(int(headers["Retry-After"]), 1)
        a.close()
        b.close()
        server.wait_until(lambda: server.metric("omni_engine_requests") == 0)
        server.wait_until(lambda: server.metric("omni_requests_running") == server.metric("omni_cache_usage_ratio") == 0)
        self.assertEqual(server.stop(), 0)
