"""Lists and watches at the Kubernetes API server, as events for a `Reflector`.

lightkube contributes how to reach the server and who to be there (kubeconfig or the pod's service
account, TLS, tokens that change). The two requests are made here, because its own watch asks for no
bookmarks, fails as a whole on one object that isn't as expected, and takes characters that may
stand inside a JSON string (U+0085) for the end of a line.

Every error ends here: it is translated and comes back as an event.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import msgspec
from lightkube import ConfigError

from troth.errors import EnvironmentLackError, PeerError, TrothError
from troth.kube.config import REQUEST_SECONDS, http_client
from troth.kube.decoding import decode, take_items
from troth.kube.errors import Status, absence, legible, message, refusal, translated
from troth.kube.reflector import (
    Absent,
    Bookmark,
    Broken,
    Deleted,
    Ended,
    Gone,
    Listed,
    Opened,
    Upserted,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from lightkube import SingleConfig

    from troth.kube.reflector import Event
    from troth.kube.resource import Item, Resource

T = TypeVar("T")

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""``Accept`` for an object without ``spec``, ``status`` and ``data``."""

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

_JSON = "application/json"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

_LONGEST_LINE = 64 * 2**20
"""Of a watch; etcd holds no object that comes near it."""


_SILENCE_SECONDS = 150.0
"""The server sends a bookmark every minute."""

_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A server that vanished without closing its connections is noticed after 30 seconds."""


class _ListMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct, frozen=True):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _WatchEvent(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str


class _BookmarkObject(msgspec.Struct, frozen=True):
    metadata: _Version


class ApiServer:
    """The API server of one context of a kubeconfig, or of the cluster that this runs in.

    Args:
        config: How to reach it, and as whom.
        silence_seconds: A watch through which nothing came for so long is given up.

    Raises:
        EnvironmentLackError: The configuration can't be used.
    """

    def __init__(self, config: SingleConfig, *, silence_seconds: float = _SILENCE_SECONDS) -> None:
        self._name = f"API server {legible(config.cluster.server)}"
        self._silence_seconds = silence_seconds
        self._served: dict[str, str] = {}
        self._client = http_client(
            config, remedy="correct the kubeconfig, or mount the service account's token and CA"
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def list(self, resource: Resource[T], *, since: str = "") -> Event[T]:
        """All objects; one event says how it went.

        Args:
            resource: What to list.
            since: Of a bulk resource, a version that the list may not be older than: the server
                answers from its cache. By default it is what is stored, in pages.
        """
        event: Event[T] = Absent()
        try:
            for version in resource.versions:
                self._served[str(resource)] = version
                if since and resource.is_bulk:
                    event = await self._cached(resource, since)
                else:
                    event = await self._pages(resource)
                if not isinstance(event, Absent):
                    break
        except TrothError as error:
            return Broken(error)
        except (httpx2.HTTPError, msgspec.DecodeError, ConfigError, OSError) as error:
            return Broken(translated(self._name, error))
        return absence(self._name, resource) if isinstance(event, Absent) else event

    async def get(self, resource: Resource[T]) -> Event[T]:
        """The one object at the resource's path, as a list of it, or of nothing."""
        try:
            response = await self._client.get(resource.path(resource.versions[0]))
            if response.status_code == httpx2.codes.NOT_FOUND:
                return Listed((), "")
            if response.status_code != httpx2.codes.OK:
                return refusal(self._name, resource, response, "get")
            item = resource.read(msgspec.Raw(response.content))
        except TrothError as error:
            return Broken(error)
        except (httpx2.HTTPError, msgspec.DecodeError, ConfigError, OSError) as error:
            return Broken(translated(self._name, error))
        return Listed((item,), item.version)

    async def watch(
        self, resource: Resource[T], version: str, *, seconds: float
    ) -> AsyncGenerator[Event[T], None]:
        """What happens after ``version``; the last event says how it ended.

        Args:
            resource: What to watch.
            version: Of a list, or of what a watch reported last.
            seconds: When the server should end it.
        """
        parameters = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(int(seconds)),
        }
        timeout = httpx2.Timeout(REQUEST_SECONDS, read=self._silence_seconds)
        try:
            async with self._client.stream(
                "GET", self._path(resource), params=_selected(resource, parameters), timeout=timeout
            ) as response:
                if response.status_code != httpx2.codes.OK:
                    await response.aread()
                    refused = refusal(self._name, resource, response, "watch")
                    yield absence(self._name, resource) if isinstance(refused, Absent) else refused
                    return
                _keep_alive(response)
                yield Opened()
                async for line in _lines(response):
                    event = self._event(resource, line)
                    yield event
                    if isinstance(event, Gone | Broken):
                        return
        except TrothError as error:
            yield Broken(error)
        except (httpx2.HTTPError, msgspec.DecodeError, ConfigError, OSError) as error:
            yield Broken(translated(self._name, error))
        else:
            yield Ended()

    async def _cached(self, resource: Resource[T], since: str) -> Event[T]:
        # A server's cache knows no pages (before Kubernetes 1.34), so items are read as they come.
        parameters = {"resourceVersion": since, "resourceVersionMatch": "NotOlderThan"}
        items: list[Item[T]] = []
        async with self._client.stream(
            "GET", self._path(resource), params=_selected(resource, parameters)
        ) as response:
            if response.status_code != httpx2.codes.OK:
                await response.aread()
                return refusal(self._name, resource, response, "list")
            begun = bytearray()
            async for chunk in response.aiter_bytes():
                begun += chunk
                items += map(resource.read, take_items(begun))
            rest = decode(bytes(begun), _List)
            items += map(resource.read, rest.items or ())
            return Listed(tuple(items), rest.metadata.resource_version)

    async def _pages(self, resource: Resource[T]) -> Event[T]:
        items: list[Item[T]] = []
        parameters = {"limit": str(resource.page)}
        headers = {"Accept": _METADATA_LIST} if resource.metadata_only else {}
        while True:
            response = await self._client.get(
                self._path(resource), params=_selected(resource, parameters), headers=headers
            )
            if response.status_code != httpx2.codes.OK:
                return refusal(self._name, resource, response, "list")
            page = decode(response.content, _List)
            items += map(resource.read, page.items or ())
            if not page.metadata.continue_:
                return Listed(tuple(items), page.metadata.resource_version)
            parameters["continue"] = page.metadata.continue_

    def _path(self, resource: Resource[T]) -> str:
        return resource.path(self._served.get(str(resource), resource.versions[0]))

    def _event(self, resource: Resource[T], line: bytes) -> Event[T]:
        sent = decode(line, _WatchEvent)
        match sent.type:
            case "ADDED" | "MODIFIED":
                return Upserted(resource.read(sent.object))
            case "DELETED":
                return Deleted(resource.read(sent.object))
            case "BOOKMARK":
                return Bookmark(decode(sent.object, _BookmarkObject).metadata.resource_version)
        status = decode(sent.object, Status)
        if status.code == httpx2.codes.GONE:
            return Gone()
        reason = f"ended the watch of {resource}: {status.code} {legible(status.message)}"
        return Broken(PeerError(self._name, reason))


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
        words = f"{response.status_code} {legible(message(response))}"
        if response.status_code == httpx2.codes.FORBIDDEN:
            raise EnvironmentLackError(
                f"no permission: {self.name} said {words}", "have it granted by RBAC"
            )
        remedy = ""
        if response.status_code == httpx2.codes.UNAUTHORIZED:
            remedy = "see that the token or client certificate is valid for this cluster"
        raise PeerError(self.name, f"refused {method} {path}: {words}", remedy)


def _selected(resource: Resource[T], parameters: Mapping[str, str]) -> dict[str, str]:
    selectors = {
        "fieldSelector": resource.field_selector,
        "labelSelector": resource.label_selector,
    }
    return {**parameters, **{key: text for key, text in selectors.items() if text}}


def _keep_alive(response: httpx2.Response) -> None:
    connection = response.extensions["network_stream"].get_extra_info("socket")
    if isinstance(connection, socket.socket):
        for level, option, value in _KEEPALIVE:
            connection.setsockopt(level, option, value)


async def _lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Cut what comes at its newlines, and nowhere else; what comes after the last one is no line.

    Raises:
        PeerError: A line is too long.
    """
    begun = bytearray()
    async for chunk in response.aiter_bytes():
        first, *others = chunk.split(b"\n")
        begun += first
        for other in others:
            yield bytes(begun)
            begun = bytearray(other)
        if len(begun) > _LONGEST_LINE:
            raise PeerError("the API server", "sent a watch event without end")
