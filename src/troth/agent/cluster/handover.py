"""How one agent of a node follows another: room for two, and whose turn it is.

A slot is a directory, which an agent holds by a lock for as long as it lives, and a set of ports
for its Envoy. Agents of different versions meet here, so the layout is to stay::

    RUN_DIR/agents/0/lock        held (flock) while an agent lives
    RUN_DIR/agents/0/handover    the socket below
    RUN_DIR/agents/1/...
    RUN_DIR/agents/charge        held by the agent that acts
    RUN_DIR/events/              the journal, of whichever agent acts

The new agent connects to the old one's socket when it starts, and says ``take`` when its Envoy can
serve all. The old one then steps back and answers with a `Handover`, and with what connections it
still sees: JSON, a line each. If the connection ends, the agent at its other end is gone: a new
agent that dies leaves the node to the old one again. A new agent that is told to end says
``return``: an old one that stays answers the same and has the node again, any other says nothing.

Whatever two agents say to each other, only the one that holds ``charge`` acts. Two that start at
once ask each other, and one of them finds it held, and asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from troth.errors import PeerError
from troth.mesh.ports import PORT_SETS, PortSet
from troth.traffic.connection import Connection
from troth.unix_sockets import Peer, is_our_user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from troth.agent.agent import NodeAgent

_log = structlog.get_logger(__name__)

_TAKE = b"take\n"
_RETURN = b"return\n"
_ANSWER_SECONDS = 15.0
_LOOK_SECONDS = 0.1
_SLOT_LOOK_SECONDS = 0.2
_LONGEST_LINE = 16 * 1024 * 1024
_MOST_UNSENT = 4 * 1024 * 1024

_DRAIN_LOOK_SECONDS = 1.0
"""How often one that is to end looks for connections that are left."""

_QUIET_LOOKS = 5
"""How often in a row it must find none before it ends."""


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's place on its node.

    Attributes:
        directory: For sockets and files of its own.
        ports: Where its Envoy listens in every pod.
    """

    directory: Path
    ports: PortSet

    @property
    def handover(self) -> Path:
        """The socket by which the agent here hands its node over."""
        return self.directory / "handover"

    @property
    def is_taken(self) -> bool:
        """Whether there is an agent here that lives."""
        file = _locked(self.directory / "lock")
        if file is None:
            return True
        os.close(file)
        return False


def _locked(path: Path) -> int | None:
    """The file, locked until it is closed; None when somebody else has it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


class Turn:
    """The right to act on a node, which one agent has at a time.

    Args:
        path: The lock's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def take(self) -> bool:
        """Have it, if nobody else does; whether it is had."""
        if self._file is None:
            self._file = _locked(self._path)
        return self._file is not None

    def give(self) -> None:
        """Let others have it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Place(msgspec.Struct, frozen=True):
    """Where an agent is, and where there may be another one.

    Attributes:
        turn: Of either of them to act.
    """

    own: Slot
    other: Slot
    turn: Turn


@contextlib.asynccontextmanager
async def take_place(run_dir: Path) -> AsyncIterator[Place]:
    """Hold a slot while the block runs, as soon as one is free."""
    first, second = (
        Slot(directory=run_dir / "agents" / str(number), ports=ports)
        for number, ports in enumerate(PORT_SETS)
    )
    turn = Turn(run_dir / "agents" / "charge")
    while True:
        for place in (Place(first, second, turn), Place(second, first, turn)):
            file = _locked(place.own.directory / "lock")
            if file is not None:
                try:
                    yield place
                finally:
                    turn.give()
                    os.close(file)
                return
        await asyncio.sleep(_SLOT_LOOK_SECONDS)


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What the new agent can't know otherwise.

    Attributes:
        joining: UIDs of the pods whose capture not everybody knows of yet.
    """

    joining: frozenset[str] = frozenset()


class Holder(Protocol):
    """Who has a node to hand over; `troth.agent.agent.NodeAgent`."""

    async def step_back(self, tell: Callable[[Connection], None]) -> frozenset[str] | None:
        """Leave the node to another agent, and tell it of connections; None if it isn't had."""
        ...

    async def take_charge(self) -> None:
        """Have the node again, as soon as nobody else has it."""
        ...


class Successors:
    """Hands a node over to the agent that asks.

    Args:
        holder: Who has the node.

    Attributes:
        is_staying: Whether it would have the node again.
    """

    def __init__(self, holder: Holder) -> None:
        self.is_staying = True
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
            before, self._taken_by = self._taken_by, writer
            joining = await self._holder.step_back(lambda each: _tell(writer, each))
            if joining is not None:
                _log.info("handing over")
            elif self._taken_by is writer:
                self._taken_by = before
            writer.write(msgspec.json.encode(Handover(joining=joining or frozenset())) + b"\n")
            while line := await reader.readline():
                if line == _RETURN and self.is_staying:
                    writer.write(_RETURN)
                    break
        except OSError as error:
            _log.warning("the next agent can't be talked to", reason=str(error))
        finally:
            self._connected.discard(writer)
            writer.close()
            if self._taken_by is writer and not self._closing:
                self._taken_by = None
                _log.warning("the next agent ends: taking over again")
                await self._holder.take_charge()


def _tell(writer: asyncio.StreamWriter, connection: Connection) -> None:
    if not writer.is_closing() and writer.transport.get_write_buffer_size() < _MOST_UNSENT:
        writer.write(msgspec.json.encode(connection) + b"\n")


class Predecessor:
    """The agent that had the node.

    Attributes:
        handover: What it said.
        has_returned: Whether it has the node again.
    """

    def __init__(
        self, handover: Handover, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.handover = handover
        self.has_returned = False
        self._reader = reader
        self._writer = writer

    async def connections(self) -> AsyncIterator[Connection]:
        """What it still sees, until it ends or has the node again."""
        decoder = msgspec.json.Decoder(Connection)
        with contextlib.suppress(OSError):
            while line := await self._reader.readline():
                if line == _RETURN:
                    self.has_returned = True
                    return
                with contextlib.suppress(msgspec.MsgspecError):  # another version's
                    yield decoder.decode(line)

    def ask_back(self) -> None:
        """Ask it to have the node again, if it stays."""
        if not self._writer.is_closing():
            self._writer.write(_RETURN)

    def close(self) -> None:
        """Let it have the node again, if it is there."""
        self._writer.close()


async def take_over(place: Place, prepared: Callable[[], Awaitable[object]]) -> Predecessor | None:
    """Have the turn, handed over by the other agent; None if there is none, or none any more.

    Args:
        place: The agent's.
        prepared: Returns when the time has come.
    """
    while not place.turn.take() or place.other.is_taken:
        try:
            reader, writer = await asyncio.open_unix_connection(
                place.other.handover, limit=_LONGEST_LINE
            )
        except OSError:
            await asyncio.sleep(_LOOK_SECONDS)  # it is just starting, or ending
            continue
        try:
            predecessor = await _take(reader, writer, prepared)
            if place.turn.take():
                return predecessor
        except (PeerError, OSError) as error:
            _log.warning("the node was not handed over", reason=str(error))
        except BaseException:
            writer.close()
            raise
        writer.close()
        await asyncio.sleep(_LOOK_SECONDS)
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


class Charge:
    """Has an agent take charge of its node when it can, and hand it over to its successor.

    Args:
        agent: The agent, standing by.
        place: Its place, and that of the other one.

    Attributes:
        prepared: To be set when the agent can serve all.
        mine: Set while the agent is in charge.
        others: Set when another one is, and the agent has been.
    """

    def __init__(self, agent: NodeAgent, place: Place) -> None:
        self.prepared = asyncio.Event()
        self.mine = asyncio.Event()
        self.others = asyncio.Event()
        self._agent = agent
        self._place = place
        self._successors = Successors(self)
        self._predecessor: Predecessor | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether the agent has yet to be in charge."""
        return not (self.mine.is_set() or self.others.is_set())

    async def run(self, adopt: Callable[[], Awaitable[None]]) -> None:
        """Take charge, and hand over when somebody asks, until cancelled.

        Args:
            adopt: Finds what an earlier agent left behind, just before.
        """
        async with self._successors.served(self._place.own.handover):
            while True:
                predecessor = await take_over(self._place, self.prepared.wait)
                await adopt()
                if self._place.turn.take():  # still
                    break
                if predecessor is not None:
                    predecessor.close()
            self._act(predecessor.handover.joining if predecessor else ())
            if predecessor is not None:
                await self._follow(predecessor)
            await asyncio.get_running_loop().create_future()

    async def _follow(self, predecessor: Predecessor) -> None:
        """Take note of what the agent before still sees, until it has ended."""
        self._predecessor = predecessor
        if not self._successors.is_staying:
            predecessor.ask_back()
        with contextlib.closing(predecessor):
            async for connection in predecessor.connections():
                self._agent.note(connection)
            if predecessor.has_returned:
                _log.info("giving the node back to the agent before")
                await self.step_back(lambda _: None)
        self._predecessor = None

    async def drained(self, seconds: float, *, is_followed: Callable[[], bool]) -> None:
        """Wait for as long as the agent's end would cut connections for no need.

        That is until another agent has taken over, if there is one or is to be one, and the
        connections of this one have ended. The one before has the node again, if that is still
        there and stays, as when a DaemonSet changes twice: without a slot the next can't start.

        Args:
            seconds: The longest time.
            is_followed: Whether another agent is to come.
        """
        _log.info("waiting for the next agent, and for connections to end", seconds=seconds)
        self._successors.is_staying = False
        if self._predecessor is not None:
            self._predecessor.ask_back()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._done(is_followed)

    async def _done(self, is_followed: Callable[[], bool]) -> None:
        """Wait until nobody needs this agent."""
        quiet = 0
        # Whoever takes over leads new connections to itself a moment later, pod by pod.
        while quiet < _QUIET_LOOKS and not self.is_awaited:
            if self.mine.is_set():
                if not (self._successors.are_there or is_followed()):
                    return
                quiet = 0
            else:
                quiet = 0 if await self._agent.connected() else quiet + 1
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)

    async def take_charge(self) -> None:
        """Be in charge again, as soon as nobody else is."""
        while not self._place.turn.take():  # noqa: ASYNC110 - locks tell nobody
            await asyncio.sleep(_LOOK_SECONDS)
        self._act()

    def _act(self, joining: Iterable[str] = ()) -> None:
        self.mine.set()
        self.others.clear()
        self._agent.take_charge(joining)

    async def step_back(self, tell: Callable[[Connection], None]) -> frozenset[str] | None:
        """Be in charge no more; as `NodeAgent.step_back`, and None if it wasn't in charge."""
        joining = None
        if self.mine.is_set():
            joining = await self._agent.step_back(tell)
            self.mine.clear()
            self.others.set()
        self._place.turn.give()
        return joining
