"""HTTP as it should not be: lengths, JSON, cuts, upgrades, random damage. The server answers, or closes, and goes on with the others."""
import http.client
import json
import random
import socket
import ssl
import subprocess
import tempfile
import time
import os

import harness
from harness import Case, Server


def rest(s):
    """All that comes until the connection closes or nothing comes any more."""
    data = b""
    try:
        while piece := s.recv(65536):
            data += piece
    except (ConnectionResetError, socket.timeout):
        pass
    s.close()
    return data


def post(body, *head):
    lines = [b"POST /tokenize HTTP/1.1", b"Host: x", b"Connection: close", b"Content-Length: %d" % len(body), *head]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Hostile(Case):
    FLAGS = ["--timeout", 2, "--max-body", 1 << 20]

    def alive(self):
        c = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=5)
        c.request("GET", "/health")
        self.assertEqual(c.getresponse().read(), b'{"status":"ok"}')
        c.close()

    def test_pipelining(self):
        s = self.server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 5)
        self.assertEqual(rest(s).count(b'{"status":"ok"}'), 4)

    def test_expect(self):
        body = b'{"content": "Hi"}'
        whole = post(body, b"Expect: 100-continue")
        s = self.server.raw(whole[:-len(body)], 5)
        self.assertTrue(s.recv(100).startswith(b"HTTP/1.1 100 "))
        s.sendall(body)
        self.assertIn(b"200 OK", rest(s))

    def test_lengths(self):
        for head, status in ((b"Content-Length: -1", 400), (b"Content-Length: x", 400), (b"Content-Length: 5 5", 400), (b"Content-Length: +5", 400),
                             (b"Content-Length: 99999999999999999999999", 413), (b"Content-Length: 2000000", 413),
                             (b"Transfer-Encoding: gzip, chunked", 411), (b"Content-Length: 3\r\nTransfer-Encoding: chunked", 411), (b"Accept: */*", 411)):
            got = rest(self.server.raw(b"POST /tokenize HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n", 5))
            self.assertEqual(got[:12], b"HTTP/1.1 %d" % status, head)
        self.alive()

    def test_json(self):
        deep = b'{"content":' + b"[" * 100000 + b"]" * 100000 + b"}"
        many = b'{"content":[' + b",".join([b"[]"] * 349000) + b"]}"
        more = b'{"content":[' + b",".join([b"0"] * 510000) + b"]}"
        for body in (deep, many, more, b"", b"{", b"[1]", b"\xff\xfe", b'{"content": "\xff"}', b"1", b"null", b'{"content":"' + b"a" * 900000,
                     b'{"content":"\\ud800"}', b'{"content":"a","content":"b"}', b'{"content": 1e999}'):
            for path in ("/tokenize", "/v1/chat/completions"):
                status, _, data = self.server.ask("POST", path, body)
                self.assertEqual(status, 400, (body[:40], data))
                self.assertIn("message", json.loads(data)["error"])
        self.alive()

    def test_values_are_counted(self):
        """2^20 bytes can hold 10^6 values and more; they are refused before they are made."""
        body = b'{"a":[' + b"{}," * 349000 + b"0]}"
        before = self.memory()
        for _ in range(3):
            status, _, data = self.server.ask("POST", "/tokenize", body)
            self.assertEqual(status, 400)
            self.assertRegex(json.loads(data)["error"]["message"], r"\d+ values of JSON; up to \d+ are taken")
        if not self.sanitized():
            self.assertLess(self.memory() - before, 200 << 20)

    def memory(self):
        with open(f"/proc/{self.server.process.pid}/statm") as f:
            return int(f.read().split()[1]) * 4096

    def sanitized(self):
        """A sanitizer keeps what was freed, and shadows of it."""
        with open(f"/proc/{self.server.process.pid}/maps") as f:
            return "san.so" in f.read()

    def test_cut_at_every_byte(self):
        whole = post(b'{"content": "Hello"}')
        for n in range(len(whole)):
            self.server.raw(whole[:n], 5).close()
        self.alive()

    def test_half_closed(self):
        whole = post(b'{"content": "Hello"}')
        for n in (0, 30, len(whole) - 1):
            s = self.server.raw(whole[:n], 5)
            s.shutdown(socket.SHUT_WR)
            self.assertNotIn(b" 200 ", rest(s))
        self.alive()

    def test_slow_writers_are_closed(self):
        whole = post(b'{"content": "Hello"}')
        begun = [self.server.raw(whole[:n], 10) for n in (0, 20, len(whole) - 3)]
        start = time.monotonic()
        for s in begun:
            rest(s)
        self.assertLess(time.monotonic() - start, 9)
        self.alive()

    def test_malformed(self):
        r = random.Random(7)
        good = b"POST /tokenize?a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: k\r\nContent-Length: 16\r\n\r\n{\"content\": \"a\"}"
        for _ in range(1000):
            b = bytearray(good)
            for _ in range(r.randint(1, 6)):
                what, at = r.randrange(3), r.randrange(len(b))
                if what == 0:
                    b[at] = r.randrange(256)
                elif what == 1 and len(b) > 20:
                    del b[at:at + r.randint(1, 9)]
                else:
                    b[at:at] = bytes(r.randrange(256) for _ in range(r.randint(1, 40)))
            try:
                s = self.server.raw(b, 5)
                s.shutdown(socket.SHUT_WR)
                rest(s)
            except OSError:
                pass
        self.alive()

    def test_large_heads(self):
        for head in (b"X-Long: " + b"a" * 100000, b"Authorization: Bearer " + b"k" * 9000, b"\r\n".join(b"X%d: y" % i for i in range(5000))):
            try:
                rest(self.server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head + b"\r\n\r\n", 5))
            except OSError:
                pass
        got = rest(self.server.raw(b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 5))
        self.assertIn(b" 404 ", got)
        self.alive()

    def test_upgrades_are_refused(self):
        for what in (b"h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
                     b"websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13"):
            s = self.server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: " + what + b"\r\n\r\n", 1)
            self.assertNotIn(b" 101 ", rest(s))
        self.alive()

    def test_h2_preface(self):
        self.assertNotIn(b"\x00\x00", rest(self.server.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 3)))
        self.alive()

    def test_what_nobody_allowed(self):
        """Without flags that say otherwise it listens on one address of this machine alone, and tells no page of another origin that it may ask."""
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", self.server.port), timeout=5)
        for method in ("OPTIONS", "GET", "POST"):
            _, head, _ = self.server.ask(method, "/v1/models", b"{}" if method == "POST" else None, {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"})
            self.assertFalse([name for name in head if name.lower().startswith("access-control-allow")], method)

    def test_the_log_stays_whole(self):
        for path in (b"/a%0d%0ainjected%20here", b"/b%22%1b[31m%c3%28injected"):
            rest(self.server.raw(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 5))
        self.server.wait_until(lambda: any("GET /b" in line for line in self.server.lines))
        self.assertFalse([line for line in self.server.lines if not line.startswith(("20", "libwebsockets: ")) or "\x1b" in line])


class Page(Case):
    def test_files(self):
        status, head, data = self.server.ask("GET", "/")
        self.assertEqual((status, head["Content-Type"]), (200, "text/html; charset=utf-8"))
        policy = head["Content-Security-Policy"]
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn("unsafe", policy)
        self.assertEqual(head["X-Content-Type-Options"], "nosniff")
        folder = os.path.join(harness.ROOT, "src/server/page")
        with open(os.path.join(folder, "index.html"), "rb") as f:
            self.assertEqual(data, f.read())
        for name in os.listdir(folder):
            if name.endswith((".js", ".css")):
                status, head, data = self.server.ask("GET", "/page/" + name)
                with open(os.path.join(folder, name), "rb") as f:
                    self.assertEqual((status, data), (200, f.read()), name)
                self.assertRegex(head["Content-Type"], "^text/(javascript|css)")
        for path in ("/page/", "/page/none.js", "/page/../page.c", "/page/..%2fpage.c", "/page//etc/passwd", "/page/%00"):
            self.assertIn(self.server.ask("GET", path)[0], (400, 403, 404), path)


class Environment(Case):
    def test_flags(self):
        env = {"OMNI_ALIAS": "from-env", "OMNI_NO_PAGE": "true", "OMNI_PARALLEL": "2", "OMNI_API_KEY": "k"}
        s = Server("--parallel", 3, env=env)
        try:
            head = {"X-API-Key": "k"}
            self.assertEqual(s.json("GET", "/v1/models", headers=head)["data"][0]["id"], "from-env")
            self.assertEqual(s.json("GET", "/props", headers=head)["total_slots"], 3)  # the command line comes first
            self.assertEqual(s.ask("GET", "/")[0], 404)
            self.assertEqual(s.ask("GET", "/props")[0], 401)
        finally:
            self.assertEqual(s.stop(), 0)
        bad = subprocess.run([harness.OMNI, "serve", "-m", harness.TINY], env={**os.environ, "OMNI_PORT": "x"}, capture_output=True, timeout=harness.LONG)
        self.assertEqual(bad.returncode, 2)
        self.assertIn(b"OMNI_PORT: --port takes a whole number", bad.stderr)

    def test_tls(self):
        with tempfile.TemporaryDirectory() as d:
            cert, key = os.path.join(d, "c.pem"), os.path.join(d, "k.pem")
            made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key,
                                   "-out", cert], capture_output=True)
            self.assertEqual(made.returncode, 0, made.stderr)
            s = Server("--tls-cert", cert, "--tls-key", key)
            try:
                context = ssl.create_default_context(cafile=cert)
                context.check_hostname = False
                context.set_alpn_protocols(["h2", "http/1.1"])
                c = http.client.HTTPSConnection("127.0.0.1", s.port, timeout=10, context=context)
                c.request("GET", "/health")
                self.assertEqual(c.getresponse().read(), b'{"status":"ok"}')
                self.assertEqual(c.sock.selected_alpn_protocol(), "http/1.1")
                c.close()
            finally:
                self.assertEqual(s.stop(), 0)
