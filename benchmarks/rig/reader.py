"""Simulated nodes that are only a load: each watches all pods and lets what comes pass by.

A program of its own beside `follower.py`: ``reader.py KUBECONFIG READERS``. To the API server a
reader is a node like any other; on this side it costs next to nothing, because nothing is parsed
and what has come is taken a few times a second. It says ``ready``, goes on until its standard input
ends, and then says how many bytes and events it took.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
from lightkube import KubeConfig
from lightkube.config.client_adapter import verify_cluster

if TYPE_CHECKING:
    from lightkube import SingleConfig

_PAUSE_SECONDS = 0.2
_MOST = 2**20
_EVENT = b'{"type":"MODIFIED"'
_VERSION = re.compile(rb'"resourceVersion":"(\d+)"')


class Taken(msgspec.Struct, kw_only=True):
    """What readers have taken.

    Attributes:
        bytes: Of the watches, with what HTTP puts around them.
        events: Changed pods, each as often as there are readers.
    """

    bytes: int = 0
    events: int = 0


class _Api:
    """Plain requests, as neither httpx nor http.client can leave a stream unread for a while."""

    def __init__(self, config: SingleConfig) -> None:
        if config.user is None:
            raise ValueError("the kubeconfig's context has no user")
        self._server = urlsplit(config.cluster.server)
        context = verify_cluster(config.cluster, config.user, config.abs_file)
        if isinstance(context, bool):
            raise TypeError("the kubeconfig names no CA")
        self._context = context

    def version(self) -> str:
        """Of the pods as they are now."""
        stream = self.get("/api/v1/pods?limit=1")
        answer = b""
        while not (found := _VERSION.search(answer)):
            piece = stream.recv(_MOST)
            if not piece:
                raise ConnectionError(answer[:200])
            answer += piece
        stream.close()
        return found[1].decode()

    def get(self, target: str) -> ssl.SSLSocket:
        """The answer, from its first byte."""
        host, port = self._server.hostname or "", self._server.port or 443
        stream = self._context.wrap_socket(
            socket.create_connection((host, port)), server_hostname=host
        )
        stream.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        return stream


def _take(stream: ssl.SSLSocket, taken: Taken) -> None:
    """All that has come; an event at the edge of two reads may be missed, one in many."""
    while True:
        try:
            piece = stream.recv(_MOST)
        except ssl.SSLWantReadError:
            return
        if not piece:
            raise ConnectionError("the API server ended a watch")
        taken.bytes += len(piece)
        taken.events += piece.count(_EVENT)


def _main(kubeconfig: Path, readers: int) -> None:
    config = KubeConfig.from_file(kubeconfig).get()
    if config is None:
        raise ValueError(f"{kubeconfig} has no context")
    api = _Api(config)
    target = f"/api/v1/pods?watch=1&allowWatchBookmarks=1&resourceVersion={api.version()}"
    streams = [api.get(target) for _ in range(readers)]
    for stream in streams:
        stream.recv(1)  # the status line: it watches
        stream.setblocking(False)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    taken = Taken()
    has_ended = False
    while not has_ended:
        has_ended = bool(select.select([sys.stdin], [], [], _PAUSE_SECONDS)[0])
        for stream in streams:
            _take(stream, taken)
    sys.stdout.write(msgspec.json.encode(taken).decode() + "\n")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
