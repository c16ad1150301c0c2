"""How the agents of a node hand it over, from the old one to the new.

The new one connects to the old one's socket when it starts, and says ``take`` when its Envoy can
serve all. The old one then steps back and answers with a `Handover`, and with what connections it
still sees: JSON, a line each. Whoever is at the other end when the connection ends is gone: a new
agent that dies leaves the node to the old one again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from troth.errors import PeerError
from troth.traffic.connection import Connection
from troth.unix_sockets import Peer, is_our_user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from troth.agent.cluster.slots import Slot

_log = structlog.get_logger(__name__)

_TAKE = b"take\n"
_ANSWER_SECONDS = 15.0
_LOOK_SECONDS = 0.1
_LONGEST_LINE = 16 * 1024 * 1024
_MOST_UNSENT = 4 * 1024 * 1024


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What the new agent can't know otherwise.

    Attributes:
        joining: UIDs of the pods whose capture not everybody knows of yet.
    """

    joining: frozenset[str] = frozenset()


class Holder(Protocol):
    """Who has a node to hand over; `troth.agent.agent.NodeAgent`."""

    async def step_back(self, tell: Callable[[Connection], None]) -> frozenset[str]:
        """Leave the node to another agent, and tell it of connections."""
        ...

    def take_charge(self) -> None:
        """Have the node again."""
        ...


class Successors:
    """Hands a node over to whoever asks.

    Args:
        holder: Who has the node.
    """

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._connected: set[asyncio.StreamWriter] = set()
        self._taken_by: asyncio.StreamWriter | None = None
        self._closing = False

    @property
    def are_there(self) -> bool:
        """Whether another agent has taken over, or will as soon as it can."""
        return bool(self._connected)

    @contextlib.asynccontextmanager
    async def served(self, path: Path) -> AsyncIterator[None]:
        """Listen while the block runs; the directory must be the agents' alone."""
        server = await asyncio.start_unix_server(self._serve, path)
        try:
            yield
        finally:
            self._closing = True
            server.close()
            for writer in self._connected:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer.of(writer.get_extra_info("socket"))
        if not is_our_user(peer):
            _log.error("a stranger asked for the node and is refused", pid=peer.pid, uid=peer.uid)
            writer.close()
            return
        self._connected.add(writer)
        try:
            if await reader.readline() != _TAKE:
                return
            _log.info("handing over")
            self._taken_by = writer
            joining = await self._holder.step_back(lambda each: _tell(writer, each))
            writer.write(msgspec.json.encode(Handover(joining=joining)) + b"\n")
            await reader.read()
        except OSError as error:
            _log.warning("the next agent can't be talked to", reason=str(error))
        finally:
            self._connected.discard(writer)
            writer.close()
            if self._taken_by is writer and not self._closing:
                self._taken_by = None
                _log.warning("the next agent has ended: taking over again")
                self._holder.take_charge()


def _tell(writer: asyncio.StreamWriter, connection: Connection) -> None:
    if not writer.is_closing() and writer.transport.get_write_buffer_size() < _MOST_UNSENT:
        writer.write(msgspec.json.encode(connection) + b"\n")


class Predecessor:
    """The agent that had the node.

    Attributes:
        handover: What it said.
    """

    def __init__(
        self, handover: Handover, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.handover = handover
        self._reader = reader
        self._writer = writer

    async def connections(self) -> AsyncIterator[Connection]:
        """What it still sees, until it ends."""
        decoder = msgspec.json.Decoder(Connection)
        with contextlib.suppress(OSError):
            while line := await self._reader.readline():
                with contextlib.suppress(msgspec.MsgspecError):  # another version's
                    yield decoder.decode(line)

    def close(self) -> None:
        """Let it have the node again, if it is there."""
        self._writer.close()


async def take_over(slot: Slot, prepared: Callable[[], Awaitable[object]]) -> Predecessor | None:
    """Take the node over from the agent in ``slot``; None if there is none, or none any more.

    Args:
        slot: The other one's.
        prepared: Returns when the time has come.
    """
    while slot.is_taken:
        try:
            reader, writer = await asyncio.open_unix_connection(slot.handover, limit=_LONGEST_LINE)
        except OSError:
            await asyncio.sleep(_LOOK_SECONDS)  # it is just starting, or ending
            continue
        try:
            return await _take(reader, writer, prepared)
        except (PeerError, OSError) as error:
            _log.warning("the node was not handed over", reason=str(error))
            writer.close()
            await asyncio.sleep(_LOOK_SECONDS)
        except BaseException:
            writer.close()
            raise
    return None


async def _take(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    prepared: Callable[[], Awaitable[object]],
) -> Predecessor:
    answer = asyncio.ensure_future(reader.readline())
    ready = asyncio.ensure_future(prepared())
    try:
        # Unasked it says nothing: an answer now is its end.
        await asyncio.wait({answer, ready}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            writer.write(_TAKE)
        async with asyncio.timeout(_ANSWER_SECONDS):
            return Predecessor(_parse(await answer), reader, writer)
    except TimeoutError:
        raise PeerError("the agent before this one", "does not answer") from None
    finally:
        ready.cancel()
        answer.cancel()


def _parse(line: bytes) -> Handover:
    if not line:
        raise PeerError("the agent before this one", "has ended")
    try:
        return msgspec.json.decode(line, type=Handover)
    except msgspec.MsgspecError as error:
        raise PeerError("the agent before this one", f"answered strangely: {error}") from error
