"""A WebSocket (RFC 6455) with nothing but the standard library: an echo server, and a client.

serve PORT: answers every text with it; the first message is the client's address by X-Real-IP.
connect URL: says what it gets, and sends its standard input's lines; "close" closes.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import socketserver
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from io import BufferedIOBase

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE = 1, 8


def accept_of(key: str) -> str:
    return base64.b64encode(hashlib.sha1(f"{key}{_MAGIC}".encode()).digest()).decode()  # noqa: S324 - RFC 6455


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    size = len(payload)
    flag = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, flag | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, flag | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, flag | 127, size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    repeated = (mask * (size // 4 + 1))[:size]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + mask + mixed.to_bytes(size, "big")


def read_frame(stream: BufferedIOBase) -> tuple[int, bytes]:
    first, second = read(stream, 2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", read(stream, 2))
    elif size == 127:
        (size,) = struct.unpack("!Q", read(stream, 8))
    mask = read(stream, 4) if second & 0x80 else b""
    payload = read(stream, size)
    if mask:
        repeated = (mask * (size // 4 + 1))[:size]
        mixed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
        payload = mixed.to_bytes(size, "big")
    return first & 0xF, payload


def read(stream: BufferedIOBase, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise ConnectionError("ended in a frame")
    return content


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept_of(self.headers["Sec-WebSocket-Key"]))
        self.end_headers()
        caller = self.headers["X-Real-IP"] or self.client_address[0]
        self.wfile.write(frame(_TEXT, f"opened {caller}".encode(), masked=False))
        while True:
            opcode, payload = read_frame(self.rfile)
            if opcode == _CLOSE:
                self.wfile.write(frame(_CLOSE, payload, masked=False))
                self.close_connection = True
                return
            self.wfile.write(frame(_TEXT, b"echo: " + payload, masked=False))


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def connect(url: str) -> None:
    where = urlsplit(url)
    connection = socket.create_connection((where.hostname, where.port or 80))
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        f"GET {where.path} HTTP/1.1",
        f"Host: {where.netloc}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    )
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    stream = connection.makefile("rb")
    head = b"".join(iter(stream.readline, b"\r\n")).decode()
    assert head.startswith("HTTP/1.1 101"), head
    assert accept_of(key) in head, head

    def listen() -> None:
        while True:
            opcode, payload = read_frame(stream)
            if opcode == _CLOSE:
                tell(f"closed {int.from_bytes(payload)}")
                return
            tell(payload.decode())

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    for line in map(str.rstrip, sys.stdin):
        if line == "close":
            connection.sendall(frame(_CLOSE, struct.pack("!H", 1000), masked=True))
            listener.join()
            return
        connection.sendall(frame(_TEXT, line.encode(), masked=True))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        Server(("::", int(sys.argv[2])), Echo).serve_forever()
    else:
        connect(sys.argv[2])
