"""Which requests the page answers: those of the person who started it, from its own origin.

Other users of the machine can connect to loopback, and any web page can send the browser there. So
a request needs the session's cookie, which only the address that `troth ui` prints gives, once; its
Host must be one of ours (no DNS rebinding), and so must its Origin if it has one.
"""

from __future__ import annotations

import hmac
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """An ASGI application in front of another one.

    Args:
        app: What answers the requests that pass.
        port: Where it listens, on loopback.

    Attributes:
        token: What the first request shows, as ``/?token=TOKEN``, to get the session's cookie.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        self._cookie = f"troth-ui-{port}"  # cookies are of a host, whatever the port
        self._session = secrets.token_urlsafe(32)
        self.token: str | None = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        answer = self._answer(scope) or self._app
        return await answer(scope, receive, send_guarded)

    def _answer(self, scope: Scope) -> ASGIApp | None:
        """The answer to a request that doesn't pass; None for one that does."""
        headers = Headers(scope=scope)
        if headers.get("host") not in self._hosts:
            return _refusal(HTTPStatus.MISDIRECTED_REQUEST, "ask for the address that is printed")
        origin = headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self._hosts:
            return _refusal(HTTPStatus.FORBIDDEN, "another page's requests aren't answered")
        if scope["method"] not in {"GET", "HEAD"}:
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, "this page changes nothing")
        if self._is_session(HTTPConnection(scope).cookies.get(self._cookie, "")):
            return None
        if scope["path"] == "/" and self._redeem(scope["query_string"].decode("latin-1")):
            response = RedirectResponse("/", HTTPStatus.SEE_OTHER)
            response.set_cookie(self._cookie, self._session, httponly=True, samesite="strict")
            return response
        return _refusal(
            HTTPStatus.FORBIDDEN,
            "open the address that `troth ui` printed; it works once, in one browser",
        )

    def _is_session(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(), self._session.encode())

    def _redeem(self, query: str) -> bool:
        """Whether the token was shown, for the first time."""
        shown = parse_qs(query).get("token", [""])[0]
        if self.token is None or not hmac.compare_digest(shown.encode(), self.token.encode()):
            return False
        self.token = None
        return True


def _refusal(status: HTTPStatus, why: str) -> PlainTextResponse:
    return PlainTextResponse(f"{status.phrase}: {why}\n", status)
