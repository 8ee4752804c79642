"""--allow-fetch. OMNI is omni_fetching here, which takes one port of 127.0.0.1 for public (OMNI_TEST_PUBLIC_PORT); another port stands for what is inside."""
import gzip
import http.server
import os
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest

from harness import ROOT, Server
from websocket import WebSocket

with open(os.path.join(ROOT, "models/media/demo.jpg") if os.path.exists(os.path.join(ROOT, "models/media/demo.jpg")) else
          os.path.join(ROOT, "tests/data/media/image/baseline.jpg"), "rb") as f:
    PICTURE = f.read()


class Site(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *_):
        pass

    def do_GET(self):
        site = self.server
        site.seen.append((self.path, dict(self.headers)))
        name = self.path.split("?")[0]
        try:
            if name == "/to":
                self.head(302, Location=self.path.split("?", 1)[1])
            elif name == "/chain":
                n = int(self.path.split("?")[1])
                self.head(302, Location=f"/chain?{n - 1}" if n > 1 else "/picture.jpg")
            elif name == "/missing":
                self.head(404)
            elif name == "/huge":
                self.head(200, **{"Content-Length": str(1 << 40)})
                self.pour()
            elif name == "/endless":
                self.head(200)
                self.pour()
            elif name == "/heads":
                self.send_response(200)
                self.flush_headers()
                while True:
                    self.wfile.write(b"X-More: " + b"x" * 4000 + b"\r\n")
            elif name == "/slow":
                self.head(200)
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.2)
            elif name == "/gzip":
                bomb = gzip.compress(bytes(64 << 20))
                self.head(200, **{"Content-Encoding": "gzip", "Content-Length": str(len(bomb))})
                self.wfile.write(bomb)
            else:
                self.head(200, **{"Content-Length": str(len(PICTURE)), "Set-Cookie": "a=b"})
                self.wfile.write(PICTURE)
        except OSError:
            site.left.set()

    def head(self, status, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def pour(self):
        while True:
            self.wfile.write(bytes(1 << 16))


def open_site(certificate=None):
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    site.daemon_threads = True
    site.seen, site.left = [], threading.Event()
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        site.socket = context.wrap_socket(site.socket, server_side=True)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    return site


def part(url):
    return {"type": "image_url", "image_url": {"url": url}}


class Fetching(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.site, cls.inside = open_site(), open_site()
        cls.public, cls.private = cls.site.server_port, cls.inside.server_port
        cls.server = Server("--allow-fetch", "--max-body", 1 << 20, env={"OMNI_TEST_PUBLIC_PORT": str(cls.public), "http_proxy": f"http://127.0.0.1:{cls.private}"})

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        cls.site.shutdown()
        cls.inside.shutdown()
        assert code == 0, code

    def url(self, path, port=None):
        return f"http://127.0.0.1:{port or self.public}{path}"

    def refused(self, url, status=400, word="could not be fetched"):
        error = self.server.chat([{"type": "text", "text": "?"}, part(url)], status=status)["error"]
        self.assertEqual(error["param"], "messages[0].content[1].image_url.url")
        self.assertIn(word, error["message"])
        return error["message"]

    def test_answers_are_those_of_data_urls(self):
        import base64
        data = "data:image/jpeg;base64," + base64.b64encode(PICTURE).decode()
        want = self.server.chat([part(data), {"type": "text", "text": "?"}])["choices"]
        for url in [self.url("/picture.jpg"), self.url("/chain?5"), f"HTTP://127.0.0.1:{self.public}/a", f"http://localhost:{self.public}/a"]:
            self.assertEqual(self.server.chat([part(url), {"type": "text", "text": "?"}])["choices"], want, url)
        path, headers = self.site.seen[-1]
        self.assertEqual((headers["Accept-Encoding"], "Cookie" in headers, "Authorization" in headers), ("identity", False, False))

    def test_responses_and_realtime(self):
        body = {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": self.url("/picture.jpg")}, {"type": "input_text", "text": "?"}]}],
                "max_output_tokens": 4}
        self.assertEqual(self.server.json("POST", "/v1/responses", body)["object"], "response")
        body["input"][0]["content"][0]["image_url"] = self.url("/a", self.private)
        error = self.server.json("POST", "/v1/responses", body, status=400)["error"]
        self.assertEqual(error["param"], "input[0].content[0].image_url")
        ws = WebSocket(self.server.port)
        for port in [self.public, self.private]:
            picture = {"type": "input_image", "image_url": self.url("/picture.jpg", port)}
            ws.send("conversation.item.create", item={"type": "message", "role": "user", "content": [picture]})
            end = {self.public: "conversation.item.done", self.private: "error"}[port]
            while (event := ws.event())["type"] != end:
                self.assertNotEqual(event["type"], "error", event)
            if port == self.public:
                self.assertEqual(event["item"]["content"][0]["image_url"], picture["image_url"])
            else:
                self.assertTrue(event["error"]["param"].endswith(".image_url"), event)
        ws.close()

    def test_what_is_inside(self):
        before = len(self.inside.seen)
        port = self.private
        hosts = ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]"]
        texts = {self.refused(f"http://{h}:{port}/secret") for h in hosts}
        texts |= {self.refused(self.url(f"/to?http://{h}:{port}/secret")) for h in hosts}
        texts.add(self.refused("http://127.0.0.1:9/"))  # nobody listens, and it is not public
        texts.add(self.refused("http://no-such-host.invalid/"))
        self.assertEqual(len(texts), 1, texts)
        self.assertEqual(len(self.inside.seen), before)

    def test_urls_that_are_refused(self):
        self.refused(f"http://user:word@127.0.0.1:{self.public}/", word="user's name")
        self.refused("http://[fe80::1%25lo]/", word="zone")
        self.refused("http://" + "a" * 9000, word="8192")
        self.refused("http://", word="no http")
        for to in ["file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/", "data:image/png;base64,AAAA", "dict://127.0.0.1/"]:
            self.refused(self.url(f"/to?{to}"))
        self.refused(self.url(f"/to?http://user:word@127.0.0.1:{self.public}/"))

    def test_limits(self):
        self.refused(self.url("/chain?6"), word="more than 5 redirects")
        self.refused(self.url("/missing"), word="status 404")
        for path in ["/huge", "/endless", "/heads"]:
            self.refused(self.url(path), status=413, word="--max-body")
        self.server.chat([part(self.url("/gzip"))], status=400)  # is not unpacked: 64 KB that are no picture
        self.server.chat([part(self.url("/picture.jpg"))] * 33, status=400)

    def test_slow(self):
        began = time.monotonic()
        self.refused(self.url("/slow"), word="took too long")
        self.assertLess(time.monotonic() - began, 40)

    def test_a_client_that_leaves(self):
        self.site.left.clear()
        import json
        body = json.dumps({"messages": [{"role": "user", "content": [part(self.url("/slow"))]}]}).encode()
        s = self.server.raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(1)
        s.close()
        self.assertTrue(self.site.left.wait(10))

    def test_bad_certificate(self):
        with tempfile.TemporaryDirectory() as folder:
            pem = os.path.join(folder, "a.pem")
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", pem, "-out", pem + ".c", "-days", "2", "-subj", "/CN=localhost"],
                           check=True, capture_output=True)
            with open(pem, "a") as out, open(pem + ".c") as more:
                out.write(more.read())
            site = open_site(pem)
            server = Server("--allow-fetch", env={"OMNI_TEST_PUBLIC_PORT": str(site.server_port)})
            error = server.chat([part(f"https://localhost:{site.server_port}/picture.jpg")], status=400)["error"]
            self.assertIn("certificate", error["message"])
            self.assertEqual(site.seen, [])
            self.assertEqual(server.stop(), 0)
            site.shutdown()

    def test_a_server_that_stops(self):
        server = Server("--allow-fetch", "--grace", 1, env={"OMNI_TEST_PUBLIC_PORT": str(self.public)})
        import json
        body = json.dumps({"messages": [{"role": "user", "content": [part(self.url("/slow"))]}]}).encode()
        s = server.raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(1)
        began = time.monotonic()
        self.assertEqual(server.stop(signal.SIGTERM), 0)
        self.assertLess(time.monotonic() - began, 12)
        s.close()


class NotAllowed(unittest.TestCase):
    def test_nothing_connects(self):
        site = socket.create_server(("127.0.0.1", 0))
        site.settimeout(1)
        port = site.getsockname()[1]
        server = Server(env={"OMNI_TEST_PUBLIC_PORT": str(port)})
        error = server.chat([part(f"http://127.0.0.1:{port}/a.jpg")], status=400)["error"]
        self.assertIn("--allow-fetch", error["message"])
        self.assertRaises(TimeoutError, site.accept)
        self.assertEqual(server.stop(), 0)
        site.close()
