"""A WebSocket client in a few lines (RFC 6455), for tests: it can also do what no client should."""
import base64
import hashlib
import json
import os
import socket
import struct
import time

import harness


class Refused(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body[:300]}")
        self.status, self.body = status, body


class Closed(Exception):
    def __init__(self, code, reason):
        super().__init__(f"closed with {code}: {reason}")
        self.code, self.reason = code, reason


class WebSocket:
    def __init__(self, port, path="/v1/realtime?model=x", headers=None, protocols=None, timeout=None):
        self.timeout = timeout or harness.LONG
        self.s = socket.create_connection(("127.0.0.1", port), timeout=self.timeout)
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}",
                 "Sec-WebSocket-Version: 13", *(f"{k}: {v}" for k, v in (headers or {}).items())]
        if protocols:
            lines.append("Sec-WebSocket-Protocol: " + ", ".join(protocols))
        self.s.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            piece = self.s.recv(65536)
            if not piece:
                raise Refused(0, self.rest.decode())
            self.rest += piece
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        first, *fields = head.decode().split("\r\n")
        self.head = {k.lower(): v for k, v in (f.split(": ", 1) for f in fields)}
        status = int(first.split()[1])
        if status != 101:
            size = int(self.head.get("content-length", 0))
            while len(self.rest) < size:
                self.rest += self.s.recv(65536)
            self.s.close()
            raise Refused(status, self.rest.decode())
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        assert self.head["sec-websocket-accept"] == accept, self.head
        self.seen = []

    def frame(self, payload, opcode=1, fin=True, masked=True):
        n = len(payload)
        size = struct.pack("!B", n) if n < 126 else struct.pack("!BH", 126, n) if n < 65536 else struct.pack("!BQ", 127, n)
        head = bytes([opcode | 0x80 * fin, size[0] | 0x80 * masked]) + size[1:]
        if not masked:
            return head + payload
        mask = os.urandom(4)
        long = (mask * (n // 4 + 1))[:n]
        return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(long, "big")).to_bytes(n, "big")

    def raw(self, data):
        self.s.sendall(data)

    def text(self, text, **how):
        self.raw(self.frame(text.encode() if isinstance(text, str) else text, **how))

    def send(self, type, **fields):
        self.text(json.dumps({"type": type, **fields}))

    def read(self, n):
        while len(self.rest) < n:
            piece = self.s.recv(1 << 20)
            if not piece:
                raise Closed(None, "without a close frame")
            self.rest += piece
        data, self.rest = self.rest[:n], self.rest[n:]
        return data

    def message(self, pong=True):
        """The next text; pings are answered, unless pong is False."""
        text = b""
        while True:
            first, n = self.read(2)
            n = struct.unpack("!H", self.read(2))[0] if n == 126 else struct.unpack("!Q", self.read(8))[0] if n == 127 else n
            payload = self.read(n)
            opcode = first & 15
            if opcode == 8:
                raise Closed(struct.unpack("!H", payload[:2])[0] if payload else None, payload[2:].decode())
            if opcode == 9 and pong:
                self.raw(self.frame(payload, 10))
            elif opcode in (0, 1):
                text += payload
                if first & 0x80:
                    return text.decode()

    def event(self, seconds=None):
        self.s.settimeout(seconds or self.timeout)
        e = json.loads(self.message())
        self.seen.append(e)
        return e

    def until(self, type, seconds=None):
        """All events up to the first of a type, that one last."""
        end = time.monotonic() + (seconds or self.timeout)
        events = []
        while not events or events[-1]["type"] != type:
            assert time.monotonic() < end, [e["type"] for e in events]
            events.append(self.event(max(0.1, end - time.monotonic())))
            assert type == "error" or events[-1]["type"] != "error", events[-1]
        return events

    def close(self):
        self.s.close()
