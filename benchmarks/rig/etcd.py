"""Writes straight into a test cluster's etcd, through its JSON gateway."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from itertools import islice
from typing import TYPE_CHECKING, Self

from troth.agent import netns

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_ADDRESS = ("127.0.0.1", 2379)
_BATCH = 100  # etcd takes 128 operations at most, of 1.5 MB together


class Etcd:
    """The etcd of a control plane.

    Args:
        namespace: The network namespace on whose loopback it listens.
    """

    def __init__(self, namespace: Path) -> None:
        self._connection = http.client.HTTPConnection(*_ADDRESS)
        self._namespace = namespace

    def __enter__(self) -> Self:
        own = netns.socket_in(self._namespace, socket.AF_INET)
        own.connect(_ADDRESS)
        self._connection.sock = own
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def put(self, pairs: Iterable[tuple[str, bytes]]) -> None:
        """Store keys and values."""
        left = iter(pairs)
        while batch := list(islice(left, _BATCH)):
            puts = [
                {"requestPut": {"key": _text(key.encode()), "value": _text(value)}}
                for key, value in batch
            ]
            self._connection.request("POST", "/v3/kv/txn", json.dumps({"success": puts}))
            answer = self._connection.getresponse()
            body = answer.read()
            if answer.status != http.client.OK:
                raise OSError(f"etcd answers {answer.status}: {body[:200]!r}")


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
