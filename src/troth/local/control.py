"""Answers the `troth` command's questions to a running mesh (`troth.control.protocol`).

The command is outside of the mesh's PID namespace, and every container is in it: that tells who may
ask.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog

from troth.errors import EnvironmentLackError, InputError, PeerError, Problem, TrothError
from troth.unix_sockets import Peer, is_our_user, private_listener

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T", bound=msgspec.Struct)

_LONGEST_REQUEST = 64 * 1024

Answer = AsyncIterator[Any]
Handler = Callable[[Mapping[str, Any]], Answer]

_log = structlog.get_logger(__name__)


def from_outside(peer: Peer) -> bool:
    """Whether it is a process of the mesh's user, and none of the mesh's own."""
    return is_our_user(peer) and peer.pid == 0


async def one(answer: Awaitable[Any]) -> Answer:
    """An answer of one line."""
    yield await answer


def checked(request: Mapping[str, Any], kind: type[T]) -> T:
    """Read a request's arguments.

    Raises:
        InputError: They are not what the request takes.
    """
    try:
        return msgspec.convert(request, kind)
    except msgspec.ValidationError as error:
        problem = Problem(
            subject=f"request {request['op']}",
            path="",
            found=str(error),
            wanted=f"give {', '.join(kind.__struct_fields__)}",
        )
        raise InputError([problem]) from error


class ControlServer:
    """Serves requests by name.

    Args:
        path: The socket, made 0600 inside a 0700 directory.
        handlers: For each ``op`` what yields the answer's lines.
        admits: Who may ask.
    """

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        *,
        admits: Callable[[Peer], bool] = from_outside,
    ) -> None:
        self._admits = admits
        self._path = path
        self._handlers = handlers
        self._connections: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve for as long as the context lasts."""
        # It appears under its name only when it listens: who sees it may connect.
        unnamed = self._path.with_suffix(".new")
        unnamed.unlink(missing_ok=True)
        listener = private_listener(unnamed)
        unnamed.replace(self._path)
        server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=_LONGEST_REQUEST
        )
        try:
            yield
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            self._path.unlink(missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                await self._answer(reader, writer)
            finally:
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(value: object) -> None:
            writer.write(msgspec.json.encode(value) + b"\n")
            await writer.drain()

        peer = Peer.of(writer.get_extra_info("socket"))
        try:
            asked = await reader.readline()  # what isn't read would reset the answer
            if not self._admits(peer):
                _log.warning("a request that doesn't come from outside is refused", pid=peer.pid)
                await send({"error": "it is answered only outside of the mesh"})
                return
            request = msgspec.json.decode(asked, type=dict[str, Any])
            handler = self._handlers[request["op"]]
        except (ValueError, KeyError, TypeError) as error:
            await send({"error": f"not a request: {error}"})
            return
        # A client that goes away ends the answer, also while nothing is being written.
        gone = asyncio.ensure_future(reader.read(1))
        lines = handler(request)
        try:
            while True:
                line = asyncio.ensure_future(anext(lines))
                await asyncio.wait({line, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not line.done():
                    line.cancel()
                    return
                await send(line.result())
        except StopAsyncIteration:
            pass
        except TrothError as error:
            await send(_refusal(error))
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - one bad request must not end the mesh
            _log.exception("a request failed", op=request["op"])
            await send({"error": "an internal error; the mesh's log has the traceback"})
        finally:
            gone.cancel()


def _refusal(error: TrothError) -> dict[str, str]:
    match error:
        case PeerError():
            return {"peer": error.peer, "error": error.reason, "remedy": error.remedy}
        case EnvironmentLackError():
            return {"error": error.lack, "remedy": error.remedy}
        case _:
            return {"error": str(error)}
