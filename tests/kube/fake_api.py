"""A small API server that lists and watches, and misbehaves on request."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import Cluster, User

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

Object: TypeAlias = dict[str, Any]

NAMESPACES = "/api/v1/namespaces"
NODES = "/api/v1/nodes"
PODS = "/api/v1/pods"
SERVICES = "/api/v1/services"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
POLICIES = "/apis/security.istio.io/v1/peerauthentications"
OLD_POLICIES = "/apis/security.istio.io/v1beta1/peerauthentications"


def thing(name: str, namespace: str = "", **fields: object) -> Object:
    place = {"namespace": namespace} if namespace else {}
    metadata: Object = {"name": name, "uid": f"uid-{name}", **place}
    return {"metadata": metadata | dict(fields.pop("metadata", {})), **fields}  # type: ignore[call-overload]  # a mapping


class Exchange:
    """One request and the way to answer it."""

    def __init__(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        self.method, target, _ = head.split(maxsplit=2)
        lines = (line.partition(": ") for line in head.splitlines()[1:] if line)
        self.headers = {name.lower(): value for name, _, value in lines}
        self.body = body
        url = urlsplit(target)
        self.path = url.path
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        self._writer = writer

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"

    async def answer(self, body: bytes, *, status: int = 200, headers: str = "") -> None:
        """A whole answer."""
        self._writer.write(
            f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
            + body
        )
        await self._writer.drain()

    async def refuse(self, status: int, message: str = "", headers: str = "") -> None:
        """An answer with a Status."""
        body = {"kind": "Status", "status": "Failure", "message": message, "code": status}
        await self.answer(json.dumps(body).encode(), status=status, headers=headers)

    async def begin(self) -> None:
        """The head of an answer that goes on."""
        self._writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await self._writer.drain()

    async def send(self, data: bytes) -> None:
        """A piece of it."""
        self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self._writer.drain()

    async def end(self) -> None:
        """Its good end."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def drop(self) -> None:
        """No end at all."""
        self._writer.transport.abort()


Handler: TypeAlias = "Callable[[Exchange], Awaitable[None]]"


def event(kind: str, what: Object) -> bytes:
    return json.dumps({"type": kind, "object": what}, ensure_ascii=False).encode() + b"\n"


class FakeApi:
    """Keeps objects by the path of their kind.

    Attributes:
        faults: Handlers by path; each answers one request in place of the server.
        requests: All that was asked.
        page: How many objects one answer to a list has at most.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, Object]] = {
            path: {} for path in (NAMESPACES, NODES, PODS, SERVICES, SLICES, POLICIES)
        }
        self.faults: dict[str, deque[Handler]] = {path: deque() for path in self.kinds}
        self.requests: list[Exchange] = []
        self._compacted = 0
        self.page = 10_000
        self._version = 1
        self._log: list[tuple[int, str, bytes]] = []
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def config(self) -> SingleConfig:
        """How to reach it."""
        cluster = Cluster(server=f"http://127.0.0.1:{self.port}")
        config = KubeConfig.from_one(cluster=cluster, user=User(token="t")).get()  # noqa: S106 - none
        assert config is not None
        return config

    async def start(self) -> None:
        """Listen, at the port it had before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut all connections and listen no more."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def put(self, path: str, what: Object) -> None:
        """Make or change an object."""
        key = f"{what['metadata'].get('namespace', '')}/{what['metadata']['name']}"
        kind = "MODIFIED" if key in self.kinds[path] else "ADDED"
        self._version += 1
        what["metadata"]["resourceVersion"] = str(self._version)
        self.kinds[path][key] = what
        await self._tell(path, event(kind, what))

    async def delete(self, path: str, key: str) -> None:
        """Remove an object."""
        what = self.kinds[path].pop(key)
        self._version += 1
        what["metadata"]["resourceVersion"] = str(self._version)
        await self._tell(path, event("DELETED", what))

    def compact(self) -> None:
        """Forget what happened until now."""
        self._compacted = self._version
        self._log.clear()

    async def _tell(self, path: str, line: bytes) -> None:
        async with self._changed:
            self._log.append((self._version, path, line))
            self._changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                length = re.search(r"(?i)^content-length: (\d+)", head, re.MULTILINE)
                body = await reader.readexactly(int(length[1])) if length else b""
                exchange = Exchange(head, body, writer)
                self.requests.append(exchange)
                await self._answer(exchange)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, exchange: Exchange) -> None:
        faults = self.faults.get(exchange.path)
        if faults:
            await faults.popleft()(exchange)
        else:
            await self.pass_on(exchange)

    async def pass_on(self, exchange: Exchange) -> None:
        """Answer in good order."""
        if exchange.path not in self.kinds:
            await exchange.refuse(404, "the server could not find the requested resource")
        elif exchange.is_watch:
            await self._watch(exchange)
        else:
            await self._list(exchange)

    async def _list(self, exchange: Exchange) -> None:
        begin = int(exchange.query.get("continue", "0"))
        items = list(self.kinds[exchange.path].values())
        if selector := exchange.query.get("fieldSelector"):
            items = [each for each in items if _matches(each, selector)]
        end = begin + min(self.page, int(exchange.query.get("limit", len(items))))
        metadata: Object = {"resourceVersion": str(self._version)}
        if end < len(items):
            metadata["continue"] = str(end)
        body = {"metadata": metadata, "items": items[begin:end] or None}
        await exchange.answer(json.dumps(body).encode())

    async def _watch(self, exchange: Exchange) -> None:
        version = int(exchange.query["resourceVersion"])
        await exchange.begin()
        if version < self._compacted:
            await exchange.send(event("ERROR", {"kind": "Status", "code": 410, "message": "old"}))
            await exchange.end()
            return
        while True:
            async with self._changed:
                news = [each for each in self._log if each[0] > version]
                if not news:
                    await self._changed.wait()
                    continue
            version = news[-1][0]
            for _, path, line in news:
                if path == exchange.path:
                    await exchange.send(line)


def _matches(what: Object, selector: str) -> bool:
    path, _, wanted = selector.partition("=")
    found: Any = what
    for name in path.split("."):
        found = found.get(name, {})
    return bool(found == wanted)


@asynccontextmanager
async def fake_api() -> AsyncGenerator[FakeApi, None]:
    """Runs one."""
    api = FakeApi()
    await api.start()
    try:
        yield api
    finally:
        await api.stop()
