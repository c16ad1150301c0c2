"""Single requests at the Kubernetes API that lightkube's client doesn't make.

Such as for an object's metadata alone, so that a Secret's content never leaves the API server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import msgspec
from lightkube import ConfigError
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.models import User

from troth.errors import EnvironmentLackError, PeerError
from troth.sources._api_answers import Status, legible, translated
from troth.sources._json import decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from httpcore2 import AsyncNetworkStream
    from lightkube import SingleConfig

T = TypeVar("T")

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""``Accept`` for an object without ``spec``, ``status`` and ``data``."""

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

_JSON = "application/json"
REQUEST_SECONDS = 30.0


def http_client(config: SingleConfig, *, remedy: str) -> httpx2.AsyncClient:
    """A client for HTTP requests to the API server; its owner closes it.

    Args:
        config: How to reach the server, and as whom.
        remedy: What to do if that can't be used.

    Raises:
        EnvironmentLackError: The configuration can't be used.
    """
    try:
        client = AsyncClient(
            config._replace(user=config.user or User()),
            ConnectionParams(timeout=httpx2.Timeout(REQUEST_SECONDS)),
        )
    except (ConfigError, OSError, ValueError, httpx2.InvalidURL) as error:
        raise EnvironmentLackError(
            f"the Kubernetes configuration can't be used: {legible(error)}", remedy
        ) from error
    client.event_hooks = {"request": [_close_if_cancelled]}
    return client


async def _close_if_cancelled(request: httpx2.Request) -> None:
    # httpcore closes a connection whose TLS handshake fails, but not one whose is cancelled.
    connected: list[AsyncNetworkStream] = []

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        match event:
            case "connection.connect_tcp.complete":
                connected.append(info["return_value"])
            case "connection.start_tls.failed":
                await connected.pop().aclose()

    request.extensions = {**request.extensions, "trace": trace}


class ApiRequests:
    """The API server of a context.

    Args:
        config: How to reach it, and as whom.

    Raises:
        EnvironmentLackError: The configuration can't be used.
    """

    def __init__(self, config: SingleConfig) -> None:
        self.name = f"API server {legible(config.cluster.server)}"
        self._client = http_client(config, remedy="correct the kubeconfig")

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def get(
        self,
        path: str,
        kind: type[T],
        *,
        accept: str = _JSON,
        params: Mapping[str, str] | None = None,
    ) -> T | None:
        """What is at a path; None when there is nothing.

        Raises:
            EnvironmentLackError: We may not read it.
            PeerError: The server can't be reached or refuses.
        """
        return await self._send("GET", path, kind, accept=accept, params=params)

    async def post(self, path: str, body: object, kind: type[T]) -> T | None:
        """Have something made, and read what became of it; raises as `get` does."""
        return await self._send("POST", path, kind, body=body)

    async def patch(
        self, path: str, change: object, kind: type[T], *, accept: str = _JSON
    ) -> T | None:
        """Change an object (RFC 7396); None when there is none. Raises as `get` does."""
        return await self._send(
            "PATCH", path, kind, body=change, content=MERGE_PATCH, accept=accept
        )

    async def put_at(self, path: str, pointer: str, value: object, kind: type[T]) -> T | None:
        """Set one part of an object (RFC 6902), nulls in it included; else as `patch` does."""
        change = [{"op": "add", "path": pointer, "value": value}]
        return await self._send("PATCH", path, kind, body=change, content=JSON_PATCH)

    async def delete(self, path: str) -> None:
        """Delete an object, if there is one; raises as `get` does."""
        await self._send("DELETE", path, msgspec.Raw)

    async def _send(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        accept: str = _JSON,
        content: str = _JSON,
        body: object = None,
        params: Mapping[str, str] | None = None,
    ) -> T | None:
        options: dict[str, Any] = {"headers": {"Accept": accept}}
        if body is not None:
            options["content"] = msgspec.json.encode(body)
            options["headers"]["Content-Type"] = content
        if params:
            options["params"] = params
        try:
            response = await self._client.request(method, path, **options)
            if response.status_code == httpx2.codes.NOT_FOUND:
                return None
            if response.is_success:
                return decode(response.content, kind)
        except (httpx2.HTTPError, msgspec.DecodeError, ConfigError, OSError) as error:
            raise translated(self.name, error) from error
        words = f"{response.status_code} {legible(_message(response))}"
        if response.status_code == httpx2.codes.FORBIDDEN:
            raise EnvironmentLackError(
                f"no permission: {self.name} said {words}", "have it granted by RBAC"
            )
        remedy = ""
        if response.status_code == httpx2.codes.UNAUTHORIZED:
            remedy = "see that the token or client certificate is valid for this cluster"
        raise PeerError(self.name, f"refused {method} {path}: {words}", remedy)


def _message(response: httpx2.Response) -> str:
    try:
        return decode(response.content, Status).message
    except msgspec.DecodeError:
        return response.reason_phrase
