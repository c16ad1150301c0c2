"""The delta ADS server: a gRPC service on a Unix socket that only the agent's own user can open.

Its data includes private keys, so it also asks the kernel who has connected. `DeltaStream` is the
protocol itself; this is the socket, the tasks and the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import structlog
from envoy.service.discovery.v3 import ads_pb2_grpc

from troth.envoy.delta import AdsStatus, DeltaStream, Nack, Reaction, Response
from troth.envoy.snapshot import Snapshot
from troth.errors import EnvironmentLackError
from troth.unix_sockets import is_our_user, private_umask, shut_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from troth.unix_sockets import Peer

_MAX_SOCKET_PATH = 107  # sun_path's 108 bytes less the NUL
_MAX_REQUEST = 64 * 1024 * 1024  # after a reconnect Envoy lists all its resources in one request
_RETRY_SECONDS = 10.0
"""Seconds between retries of what Envoy rejected."""

_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_REQUEST),
    ("grpc.max_send_message_length", -1),
)

_log = structlog.get_logger("troth.envoy")


class AdsObserver(Protocol):
    """Gets Envoy's answers to its configuration; called in the event loop, so it must not block."""

    def acked(self, type_url: str, names: tuple[str, ...], seconds: float | None) -> None:
        """Envoy accepted resources.

        Args:
            type_url: Their type.
            names: Their names, including removed ones.
            seconds: From `AdsServer.update` to now; None if they were sent on Envoy's request.
        """

    def nacked(self, nack: Nack, seconds: float | None) -> None:
        """Envoy rejected a resource; ``seconds`` as in `acked`."""


class AdsServer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # generated, untyped
    """Serves one snapshot at a time to any number of Envoys.

    During a restart the old Envoy and the new one are both connected. Each stream has its own
    state; `status` and `settled` are about the one opened last.
    """

    def __init__(
        self,
        path: Path,
        *,
        observer: AdsObserver | None = None,
        admits: Callable[[Peer], bool] = is_our_user,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        """Prepare a server.

        Args:
            path: The socket, at most 107 bytes long. Its directory is created with mode 0700 if it
                doesn't exist.
            observer: Called with every ACK and NACK.
            admits: Whether a connected process may be served.
            retry_seconds: How long after a NACK to send the same again.
        """
        self._path = path
        self._observer = observer
        self._admits = admits
        self._retry_seconds = retry_seconds
        self._snapshot = Snapshot()
        self._updated_at: float | None = None
        self._streams: list[_Stream] = []
        self._server: Any = None
        self._progress = asyncio.Condition()

    async def start(self) -> None:
        """Listen.

        Raises:
            EnvironmentLackError: The directory is open to others, or the path can't be bound.
        """
        _prepare_directory(self._path)
        server = grpc.aio.server(options=_OPTIONS)
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, server)
        try:
            with private_umask():
                server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise EnvironmentLackError(
                f"cannot listen on {self._path}: {error}", "see that its file system takes sockets"
            ) from error
        await server.start()
        self._server = server

    async def stop(self, grace: float = 1.0) -> None:
        """End all streams, after ``grace`` seconds by force, and stop listening. Envoy runs on."""
        for stream in self._streams:
            stream.stopping = True
            stream.wake.set()
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None
        self._path.unlink(missing_ok=True)

    def update(self, snapshot: Snapshot) -> None:
        """Serve ``snapshot`` from now on; updates faster than they can be sent are merged."""
        self._snapshot = snapshot
        self._updated_at = time.monotonic()
        for stream in self._streams:
            stream.wake.set()

    async def settled(self) -> None:
        """Wait until Envoy is connected and has ACKed or NACKed all it requested of the snapshot.

        It may request more later: secrets, once it has the listeners that refer to them.
        """
        async with self._progress:
            await self._progress.wait_for(lambda: self._settled)

    @property
    def is_connected(self) -> bool:
        """Whether an Envoy is connected."""
        return bool(self._streams)

    @property
    def nacks(self) -> tuple[Nack, ...]:
        """What the Envoy that connected last rejects."""
        return self._streams[-1].delta.nacks if self._streams else ()

    @property
    def _settled(self) -> bool:
        if not self._streams:
            return False
        stream = self._streams[-1]
        return stream.snapshot is self._snapshot and stream.delta.settled

    def status(self) -> AdsStatus:
        """The status of the Envoy that connected last."""
        if not self._streams:
            return AdsStatus()
        stream = self._streams[-1]
        return AdsStatus(
            connected=True,
            settled=self._settled,
            types={
                type_url: stream.delta.type_status(type_url) for type_url in self._snapshot.types
            },
            nacks=stream.delta.nacks,
            last_push=stream.last_push,
            last_ack=stream.last_ack,
        )

    async def DeltaAggregatedResources(  # noqa: N802  gRPC's name for it
        self, requests: AsyncIterator[Any], context: Any
    ) -> None:
        """Serve one stream until either side ends it."""
        if refused := shut_out(self._path, self._admits):
            _log.error("a stranger connected to the ADS server and is refused", connections=refused)
            # The stream's owner is unknown. If it is Envoy, it opens another one.
            await context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
        stream = _Stream(self._snapshot, context)
        self._streams.append(stream)
        _log.debug("Envoy connected to the ADS server")
        reading = asyncio.create_task(self._read(stream, requests))
        pushing = asyncio.create_task(self._push(stream))
        try:
            # The first to end (the client left, or we stop) ends the stream.
            done, _ = await asyncio.wait({reading, pushing}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._streams.remove(stream)
            async with stream.lock:  # gRPC breaks a stream whose handler leaves amid a write
                reading.cancel()
                pushing.cancel()
            await asyncio.gather(reading, pushing, return_exceptions=True)
            await self._notify()
            _log.debug("Envoy disconnected from the ADS server")

    async def _read(self, stream: _Stream, requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            async with stream.lock:
                reaction = stream.delta.receive(request)
                self._observe(stream, reaction)
                await stream.send(reaction.responses, None)
            if reaction.nacks:
                stream.wake.set()  # to start the timer of the retry
            await self._notify()

    async def _push(self, stream: _Stream) -> None:
        while not stream.stopping:
            async with stream.lock:
                if stream.snapshot is not self._snapshot:
                    stream.snapshot = self._snapshot
                    await stream.send(stream.delta.update(self._snapshot), self._updated_at)
            await self._notify()
            try:
                async with asyncio.timeout(self._retry_seconds if stream.delta.nacks else None):
                    await stream.wake.wait()
                    stream.wake.clear()
            except TimeoutError:
                async with stream.lock:
                    await stream.send(stream.delta.retry(), None)

    def _observe(self, stream: _Stream, reaction: Reaction) -> None:
        since = stream.sent_for.pop(reaction.nonce, None)
        seconds = None if since is None else time.monotonic() - since
        if reaction.acked:
            stream.last_ack = datetime.now(UTC)
            if self._observer:
                self._observer.acked(reaction.type_url, reaction.acked, seconds)
        for nack in reaction.nacks:
            _log.error(
                "Envoy refused a resource",
                type=nack.type_url.rpartition(".")[2],
                name=nack.name,
                message=nack.message,
            )
            if self._observer:
                self._observer.nacked(nack, seconds)

    async def _notify(self) -> None:
        async with self._progress:
            self._progress.notify_all()


class _Stream:
    """One Envoy's stream."""

    def __init__(self, snapshot: Snapshot, context: Any) -> None:
        self.snapshot = snapshot
        self.delta = DeltaStream(snapshot)
        self.context = context
        self.lock = asyncio.Lock()  # so that responses are written in the order of state changes
        self.wake = asyncio.Event()
        self.stopping = False
        self.sent_for: dict[str, float] = {}  # nonce to the monotonic time of the update
        self.last_push: datetime | None = None
        self.last_ack: datetime | None = None

    async def send(self, responses: Iterable[Response], since: float | None) -> None:
        for response in responses:
            if since is not None:
                self.sent_for[response.nonce] = since
            self.last_push = datetime.now(UTC)
            await self.context.write(response)


def _prepare_directory(path: Path) -> None:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise EnvironmentLackError(
            f"the socket path {path} is longer than {_MAX_SOCKET_PATH} bytes",
            "choose a shorter state directory",
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.parent.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise EnvironmentLackError(
            f"{path.parent} is not for this user alone", f"chmod 0700 {path.parent}, and own it"
        )
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
