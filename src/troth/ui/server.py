"""The page's server: the graph of a mesh as it changes, what holds for a workload, and the files.

What it answers is JSON of the same values that the commands print with ``-o json``. The mesh is
asked in threads, as commands ask it; one answer serves all who look at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from troth.errors import EnvironmentLackError, Flaw, InputError, TrothError, refusal
from troth.syntax import described
from troth.ui.graph import graph_of
from troth.ui.guard import Guard
from troth.ui.layout import placed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from troth.ask.mesh import Mesh

STATIC = Path(__file__).with_name("static")
_LONGEST_SECONDS = 7 * 24 * 3600.0
_MOST_REFUSALS = 100
_MOST_STREAMS = 16


class Feed:
    """A mesh as the page sees it.

    Args:
        mesh: Whom to ask.
        every: How often it is asked while somebody looks, in seconds.
    """

    def __init__(self, mesh: Mesh, every: float) -> None:
        self._mesh = mesh
        self.every = every
        self._seconds = self._at = 0.0  # of what is known: how far back, and when it was asked
        self._known = b""
        self._asking = asyncio.Lock()

    async def graph(self, seconds: float) -> bytes:
        """The graph of the last ``seconds`` as JSON, no older than `every`.

        Raises:
            TrothError: The mesh can't be asked.
        """
        async with self._asking:
            if seconds != self._seconds or time.monotonic() - self._at >= self.every / 2:
                self._known = await asyncio.to_thread(self._ask, seconds)
                self._seconds, self._at = seconds, time.monotonic()
            return self._known

    def _ask(self, seconds: float) -> bytes:
        audit = self._mesh.audit(seconds=seconds)
        why = self._mesh.why(None, most=_MOST_REFUSALS)
        return msgspec.json.encode(placed(graph_of(audit, why)))

    async def explanation(self, workload: str) -> bytes:
        """What holds for a workload, as `troth explain -o json` prints it.

        Raises:
            TrothError: There is none of this name, or the mesh can't be asked.
        """
        derivation, _ = await asyncio.to_thread(
            self._mesh.explain, workload, root_namespace=None, trust_domain=None
        )
        return msgspec.json.encode(derivation.explanation)


def application(feed: Feed) -> Starlette:
    """The routes, without the `Guard`."""
    streams = asyncio.Semaphore(_MOST_STREAMS)

    async def page(_: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def graph(request: Request) -> Response:
        return _json(await feed.graph(_seconds(request)))

    async def explanation(request: Request) -> Response:
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        return _json(await feed.explanation(f"{namespace}/{name}"))

    async def stream(request: Request) -> Response:
        changes = _changes(feed, _seconds(request), streams)
        return StreamingResponse(changes, media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/api/graph", graph),
            Route("/api/stream", stream),
            Route("/api/explain/{namespace}/{name}", explanation),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={TrothError: _refused},
    )


async def _changes(feed: Feed, seconds: float, streams: asyncio.Semaphore) -> AsyncIterator[str]:
    """Server-sent events: ``graph`` whenever it has changed, ``trouble`` when there is none."""
    if streams.locked():  # and nothing is awaited between this and taking one
        yield _event("trouble", msgspec.json.encode("too many pages are open"))
        return
    last = ""
    async with streams:
        while True:
            try:
                news = _event("graph", await feed.graph(seconds))
            except TrothError as error:
                news = _event("trouble", msgspec.json.encode(str(error)))
            yield news if news != last else ": still here\n\n"
            last = news
            await asyncio.sleep(feed.every)


def _event(name: str, json: bytes) -> str:
    return f"event: {name}\ndata: {json.decode()}\n\n"


def _seconds(request: Request) -> float:
    text = request.query_params.get("seconds", "3600")
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) <= _LONGEST_SECONDS:
            return seconds
    wanted = f"give seconds, up to {_LONGEST_SECONDS:.0f}"
    raise refusal("the question", Flaw(f"is {described(text)}", wanted, "seconds"))


async def _refused(_: Request, error: Exception) -> Response:
    wrong = isinstance(error, InputError)
    return _trouble(HTTPStatus.BAD_REQUEST if wrong else HTTPStatus.BAD_GATEWAY, str(error))


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _trouble(status: HTTPStatus, why: str) -> Response:
    return Response(msgspec.json.encode({"error": why}), status, media_type="application/json")


def serve(mesh: Mesh, *, port: int, every: float, on_listening: Callable[[str], None]) -> None:
    """Serve the page on loopback until SIGINT or SIGTERM.

    Args:
        mesh: What it shows.
        port: Where; 0 for any that is free.
        every: How often the mesh is asked, in seconds.
        on_listening: Told the address to open, which works once.

    Raises:
        EnvironmentLackError: The port is taken.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()  # who opens the address at once has to wait, not to be refused
        except OSError as error:
            raise EnvironmentLackError(
                f"cannot listen on 127.0.0.1:{port}: {error.strerror}", "give another --port"
            ) from error
        port = listener.getsockname()[1]
        guard = Guard(application(Feed(mesh, every)), port)
        config = uvicorn.Config(
            guard,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        on_listening(f"http://127.0.0.1:{port}/?token={guard.token}")
        uvicorn.Server(config).run(sockets=[listener])
