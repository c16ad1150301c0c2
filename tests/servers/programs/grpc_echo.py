"""A gRPC service that says who calls it, and its client.

serve PORT YOUNG_PORT: connections to the second port are told to go away after a moment.
connect HOST PORT YOUNG_PORT: answers lines of "say", "talk" or "young" and a text.
"""

from __future__ import annotations

import queue
import sys
import threading
from concurrent import futures
from typing import TYPE_CHECKING
from urllib.parse import unquote

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

_PINGS = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
)
_SHORT_LIVED = (("grpc.max_connection_age_ms", 500), ("grpc.max_connection_age_grace_ms", 10_000))


def say(request: bytes, context: grpc.ServicerContext) -> bytes:
    return f"{unquote(context.peer())} {request.decode()}".encode()


def talk(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    yield b"open"
    for request in requests:
        yield b"echo " + request


def tell(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def serve(port: str, young_port: str) -> None:
    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
    }
    servers: list[grpc.Server] = []  # one that nothing refers to ends
    for number, options in ((port, _PINGS), (young_port, (*_PINGS, *_SHORT_LIVED))):
        server = grpc.server(futures.ThreadPoolExecutor(10), options=options)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", methods),))
        server.add_insecure_port(f"[::]:{number}")
        server.start()
        servers.append(server)
    threading.Event().wait()


def connect(host: str, port: str, young_port: str) -> None:
    name = f"[{host}]" if ":" in host else host
    channel = grpc.insecure_channel(f"{name}:{port}", options=_PINGS)
    unary = channel.unary_unary("/Echo/Say")
    sent: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    answers = channel.stream_stream("/Echo/Talk")(iter(sent.get, b"never"))
    tell(next(answers).decode())
    for line in map(str.rstrip, sys.stdin):
        word, _, text = line.partition(" ")
        if word == "say":
            tell(unary(text.encode(), timeout=30).decode())
        elif word == "talk":
            sent.put(text.encode())
            tell(next(answers).decode())
        else:
            young = grpc.insecure_channel(f"{name}:{young_port}", options=_PINGS)
            method = young.unary_unary("/Echo/Say")
            callers: set[bytes] = set()
            while len(callers) < 3:
                callers.add(method(b"", timeout=30).split()[0])
            tell("three connections", text)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        connect(*sys.argv[2:])
