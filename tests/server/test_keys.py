"""Keys, limits of rate, other origins."""
import json
import os
import signal
import socket
import ssl
import subprocess
import tempfile

import harness
from harness import Case, Server


class Keys(Case):
    FLAGS = ["--api-key", "alpha", "--api-key", "beta", "--cors", "https://example.org", "--slots"]

    def test_keys(self):
        ask = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        self.server.json("GET", "/health")
        self.server.json("GET", "/v1/models", status=401)
        for headers in [{}, {"Authorization": "Bearer "}, {"Authorization": "Bearer alph"}, {"Authorization": "Bearer alphaa"}, {"Authorization": "Basic alpha"},
                        {"X-API-Key": "gamma"}, {"Authorization": "Bearer " + "k" * 5000}]:
            self.error(ask, status=401, headers=headers)
        for headers in [{"Authorization": "Bearer alpha"}, {"Authorization": "bearer beta"}, {"X-API-Key": "beta"}]:
            self.server.json("POST", "/v1/chat/completions", ask, headers)
            self.assertEqual(len(self.server.json("GET", "/slots", headers=headers)), 4)

    def test_owners_share_nothing(self):
        long = [{"role": "user", "content": "word " * 400}]
        known = [self.server.chat(long, headers={"X-API-Key": key})["usage"]["prompt_tokens_details"]["cached_tokens"] for key in ["alpha", "alpha", "beta", "beta"]]
        self.assertLess(known[0], 10)  # what every request begins with may have been asked before
        self.assertGreater(known[1], 300)
        self.assertLess(known[2], 10)
        self.assertGreater(known[3], 300)
        spoken = self.server.chat("Hi", headers={"X-API-Key": "alpha"}, modalities=["text", "audio"])["choices"][0]["message"]["audio"]["id"]
        history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "audio": {"id": spoken}}, {"role": "user", "content": "Go on"}]
        self.server.chat(history, headers={"X-API-Key": "alpha"})
        self.error({"messages": history}, "messages[1].audio.id", headers={"X-API-Key": "beta"})

    def test_other_origins(self):
        status, headers, _ = self.server.ask("OPTIONS", "/v1/chat/completions", headers={"Origin": "https://example.org", "Access-Control-Request-Method": "POST"})
        self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (204, "https://example.org"))
        self.assertIn("authorization", headers["Access-Control-Allow-Headers"])

    def test_lines_for_programs(self):
        """Seconds have milliseconds, not the digits of a double."""
        server = Server("--log-format", "json")
        server.chat("Hi")
        server.wait_until(lambda: any("completions" in line for line in server.lines))
        line = next(line for line in server.lines if "completions" in line)
        self.assertRegex(line, r'"seconds":\d+\.\d{1,3},')
        self.assertEqual(json.loads(line)["status"], 200)
        self.assertEqual(server.stop(), 0)

    def test_content_is_not_logged(self):
        self.server.chat("a secret word", headers={"X-API-Key": "alpha"})
        self.assertFalse([line for line in self.server.lines if "secret" in line or "alpha" in line])


class Files(Case):
    @classmethod
    def setUpClass(cls):
        pass

    @classmethod
    def tearDownClass(cls):
        pass

    def test_key_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "keys")
            with open(path, "w") as f:
                f.write("# ours\n  one \n\n")
            server = Server("--api-key-file", path)
            server.json("GET", "/v1/models", headers={"X-API-Key": "one"})
            with open(path, "w") as f:
                f.write("two\n")
            server.process.send_signal(signal.SIGHUP)
            server.wait_until(lambda: any("read again" in line for line in server.lines))
            server.json("GET", "/v1/models", headers={"X-API-Key": "one"}, status=401)
            server.json("GET", "/v1/models", headers={"X-API-Key": "two"})
            open(path, "w").close()  # nobody is let in by mistake
            server.process.send_signal(signal.SIGHUP)
            server.wait_until(lambda: any("no key in it" in line for line in server.lines))
            server.json("GET", "/v1/models", status=401)
            server.json("GET", "/v1/models", headers={"X-API-Key": "two"})
            self.assertEqual(server.stop(), 0)

    def test_certificate(self):
        with tempfile.TemporaryDirectory() as folder:
            cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")

            def make():
                subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", cert],
                               capture_output=True, check=True)
                with open(cert) as f:
                    return ssl.PEM_cert_to_DER_cert(f.read())

            def shown():
                context = ssl._create_unverified_context()
                with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s, context.wrap_socket(s) as tls:
                    return tls.getpeercert(True)

            first = make()
            server = Server("--tls-cert", cert, "--tls-key", key)
            try:
                self.assertEqual(shown(), first)
                second = make()
                self.assertEqual(shown(), first)
                server.process.send_signal(signal.SIGHUP)
                server.wait_until(lambda: shown() == second)
                with open(key) as f:
                    right = f.read()
                make()
                for wrong in [right, "", None]:  # nobody is locked out by a mistake: another's key, none, no file
                    if wrong is None:
                        os.remove(key)
                    else:
                        with open(key, "w") as f:
                            f.write(wrong)
                    told = sum("stays as it was" in line for line in server.lines)
                    server.process.send_signal(signal.SIGHUP)
                    server.wait_until(lambda: sum("stays as it was" in line for line in server.lines) > told)
                    self.assertEqual(shown(), second)
            finally:
                self.assertEqual(server.stop(), 0)
            r = subprocess.run([harness.OMNI, "serve", "-m", harness.TINY, "--tls-cert", cert, "--tls-key", key], capture_output=True, timeout=harness.LONG)
            self.assertEqual(r.returncode, 1)
            self.assertIn(b"key.pem: cannot be opened", r.stderr)

    def test_rate(self):
        server = Server("--rate-limit", 5)
        codes = [server.ask("GET", "/v1/models")[0] for _ in range(8)]
        self.assertEqual(codes, [200] * 5 + [429] * 3)
        status, headers, _ = server.ask("GET", "/v1/models")
        self.assertEqual(status, 429)
        self.assertTrue(1 <= int(headers["Retry-After"]) <= 13)
        server.json("GET", "/health")
        self.assertEqual(server.stop(), 0)
