"""The client of the Kubernetes API: single objects, lists and watches.

lightkube provides the server's address and the credentials (kubeconfig or the pod's service
account, TLS, rotated tokens). The requests are made here, because lightkube's watch requests no
bookmarks and splits lines at characters that are valid inside a JSON string (U+0085), one
unexpected object fails its whole list, and it can't request metadata alone, without which a
Secret's content would leave the API server.
"""

from __future__ import annotations

import contextlib
import socket
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import msgspec
from lightkube import ConfigError

from troth.errors import EnvironmentLackError, PeerError, Problem
from troth.kube.config import REQUEST_SECONDS, http_client
from troth.kube.errors import (
    ExpiredError,
    ForbiddenError,
    NotFoundError,
    NotServedError,
    Status,
    absence,
    legible,
    refusal,
    translated,
)
from troth.kube.reflector import Bookmark, Deleted, Listed, Opened, Upserted
from troth.kube.wire import decode, take_items

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
    from datetime import datetime

    from lightkube import SingleConfig

    from troth.kube.resource import Item, ObjectKind, Resource

T = TypeVar("T")

_JSON = "application/json"
_METADATA = f"{_JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = f"{_JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_MERGE_PATCH = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_APPLY_PATCH = "application/apply-patch+yaml"

_LONGEST_LINE = 64 * 2**20
"""In one line of a watch; far more than etcd stores of one object."""


_SILENCE_SECONDS = 150.0
"""The server sends a bookmark every minute, unless its etcd is an old one (before 3.5)."""

_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A server that vanished without closing its connections is noticed after 30 seconds."""

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
"""The verbs of RBAC."""


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


class _ServerVersion(msgspec.Struct, frozen=True, rename="camel"):
    git_version: str = ""


class _Group(msgspec.Struct, frozen=True):
    name: str


class _Groups(msgspec.Struct, frozen=True):
    groups: list[_Group]


class ApiClient:
    """The API server of a kubeconfig's context, or of the cluster that this process runs in.

    Every request raises the errors of `troth.kube.errors`: `ForbiddenError` without permission,
    `NotFoundError`, `ConflictError` and other `RefusedError`s as the server answered, `PeerError`
    if it can't be reached or breaks the protocol, `EnvironmentLackError` without credentials.

    Args:
        config: Address and credentials.
        field_manager: The name under which to write.
        silence_seconds: A watch that is silent for this long is restarted.

    Attributes:
        name: The server, for messages.
        date: When it last answered a list, by its own clock (RFC 9110, section 6.6.1); None if it
            doesn't say.

    Raises:
        EnvironmentLackError: The configuration can't be used.
    """

    def __init__(
        self,
        config: SingleConfig,
        *,
        field_manager: str = "",
        silence_seconds: float = _SILENCE_SECONDS,
    ) -> None:
        self.name = f"API server {legible(config.cluster.server)}"
        self._manager = {"fieldManager": field_manager} if field_manager else {}
        self._silence_seconds = silence_seconds
        self._served: dict[str, str] = {}
        self._client = http_client(config)
        self.date: datetime | None = None

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def version(self) -> str:
        """The server's version, such as ``v1.34.1``; empty if it doesn't say."""
        with self._translated():
            response = await self._client.get("/version")
            if response.status_code == httpx2.codes.NOT_FOUND:
                return ""
            if not response.is_success:
                grant = "have ClusterRole system:public-info-viewer bound"
                raise refusal(self.name, "get its version", response, grant=grant)
            return decode(response.content, _ServerVersion).git_version

    async def groups(self) -> frozenset[str] | None:
        """The API groups that it serves; None if it doesn't say."""
        with self._translated():
            response = await self._client.get("/apis")
            if response.status_code in {httpx2.codes.NOT_FOUND, httpx2.codes.FORBIDDEN}:
                return None
            if not response.is_success:
                grant = "have ClusterRole system:discovery bound"
                raise refusal(self.name, "get its API groups", response, grant=grant)
            return frozenset(each.name for each in decode(response.content, _Groups).groups)

    async def get(self, kind: ObjectKind[T], name: str, namespace: str = "") -> T:
        """An object."""
        return await self._send("GET", kind, name, namespace)

    async def create(
        self, kind: ObjectKind[T], made: object, namespace: str = "", name: str = "", part: str = ""
    ) -> T:
        """Create an object, or by the name of one a subresource; returns the server's answer."""
        return await self._send("POST", kind, name, namespace, part, body=kind.document(made))

    async def replace(
        self, kind: ObjectKind[T], made: object, name: str, namespace: str = "", part: str = ""
    ) -> T:
        """Replace the version that it names of an object, or of a subresource of it."""
        return await self._send("PUT", kind, name, namespace, part, body=kind.document(made))

    async def patch(
        self,
        kind: ObjectKind[T],
        name: str,
        change: Mapping[str, object] | Sequence[object],
        namespace: str = "",
        part: str = "",
    ) -> T:
        """Change an object or a subresource: by a merge patch (RFC 7396), or operations (RFC 6902).

        A null in a merge patch removes a field; operations can set values that contain nulls.
        """
        content = _MERGE_PATCH if isinstance(change, dict) else _JSON_PATCH
        return await self._send("PATCH", kind, name, namespace, part, body=change, content=content)

    async def apply(self, kind: ObjectKind[T], name: str, made: object, namespace: str = "") -> T:
        """Set the fields of an object that ``made`` has (server-side apply, forced)."""
        return await self._send(
            "PATCH",
            kind,
            name,
            namespace,
            body=kind.document(made),
            content=_APPLY_PATCH,
            params={"force": "true"},
        )

    async def delete(self, kind: ObjectKind[Any], name: str, namespace: str = "") -> None:
        """Delete an object."""
        any_answer = msgspec.structs.replace(kind, shape=msgspec.Raw)  # a Status, or the object
        await self._send("DELETE", any_answer, name, namespace)

    async def list(self, resource: Resource[T], *, since: str = "") -> Listed[T]:
        """All objects of a resource; for a named one that doesn't exist, none.

        Args:
            resource: What to list.
            since: For a bulk resource, a version that the list may not be older than: the server
                answers from its cache. By default it reads its storage, in pages.

        Raises:
            NotServedError: The server doesn't serve it.
        """
        with self._translated():
            for version in resource.versions:
                self._served[str(resource)] = version
                with contextlib.suppress(NotFoundError):
                    if resource.name:
                        return await self._named(resource)
                    if since and resource.is_bulk:
                        return await self._cached(resource, since)
                    return await self._pages(resource)
        if resource.name:
            return Listed((), "")
        raise absence(self.name, resource)

    async def watch(
        self, resource: Resource[T], version: str, *, seconds: float
    ) -> AsyncGenerator[Opened | Upserted[T] | Deleted[T] | Bookmark, None]:
        """Events after ``version``, until the server ends the watch normally or falls silent.

        Silence alone is not an error: the next watch shows whether the server is still there.

        Args:
            resource: What to watch.
            version: Of a list, or of the last event of a watch.
            seconds: When the server should end it.

        Raises:
            ExpiredError: The server no longer has the events since the version.
            NotServedError: The server doesn't serve it.
        """
        parameters = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(int(seconds)),
        }
        timeout = httpx2.Timeout(REQUEST_SECONDS, read=self._silence_seconds)
        with self._translated():
            async with self._client.stream(
                "GET", self._path(resource), params=_selected(resource, parameters), timeout=timeout
            ) as response:
                try:
                    await self._expect(resource, response, "watch")
                except NotFoundError as error:
                    raise absence(self.name, resource) from error
                _keep_alive(response)
                yield Opened()
                try:
                    async for line in _lines(response):
                        yield self._event(resource, line)
                except httpx2.ReadTimeout:
                    return

    async def _send(
        self,
        method: str,
        kind: ObjectKind[T],
        name: str,
        namespace: str,
        part: str = "",
        *,
        body: object = None,
        content: str = _JSON,
        params: Mapping[str, str] | None = None,
    ) -> T:
        headers = {"Accept": _METADATA if kind.metadata_only else _JSON}
        written = {}
        if body is not None:
            headers["Content-Type"] = content
            written = {**self._manager, **(params or {})}
        verb = _VERBS[method]
        doing = f"{verb} {kind.describe(name or _name(body), namespace, part)}"
        with self._translated(doing):
            response = await self._client.request(
                method,
                kind.path(name, namespace, part),
                headers=headers,
                params=written,
                content=None if body is None else msgspec.json.encode(body),
            )
            if response.is_success:
                return decode(response.content, kind.shape)
        raise refusal(self.name, doing, response, grant=kind.grant(verb, part))

    async def _named(self, resource: Resource[T]) -> Listed[T]:
        response = await self._client.get(self._path(resource))
        await self._expect(resource, response, "get")
        item = resource.read(msgspec.Raw(response.content))
        return Listed((item,), item.version)

    async def _cached(self, resource: Resource[T], since: str) -> Listed[T]:
        # A cache doesn't paginate (before Kubernetes 1.34), so items are read as they come.
        parameters = {"resourceVersion": since, "resourceVersionMatch": "NotOlderThan"}
        items: list[Item[T]] = []
        async with self._client.stream(
            "GET", self._path(resource), params=_selected(resource, parameters)
        ) as response:
            await self._expect(resource, response, "list")
            begun = bytearray()
            async for chunk in response.aiter_bytes():
                begun += chunk
                items += map(resource.read, take_items(begun))
            rest = decode(bytes(begun), _List)
            items += map(resource.read, rest.items or ())
            return Listed(tuple(items), rest.metadata.resource_version)

    async def _pages(self, resource: Resource[T]) -> Listed[T]:
        items: list[Item[T]] = []
        parameters = {"limit": str(resource.page)}
        headers = {"Accept": _METADATA_LIST} if resource.metadata_only else {}
        while True:
            response = await self._client.get(
                self._path(resource), params=_selected(resource, parameters), headers=headers
            )
            await self._expect(resource, response, "list")
            page = decode(response.content, _List)
            items += map(resource.read, page.items or ())
            if not page.metadata.continue_:
                return Listed(tuple(items), page.metadata.resource_version)
            parameters["continue"] = page.metadata.continue_

    async def _expect(self, resource: Resource[Any], response: httpx2.Response, verb: str) -> None:
        """Raise the error that an unsuccessful response means."""
        self.date = _date(response)
        if response.status_code != httpx2.codes.OK:
            await response.aread()
            grant = resource.grant(*(("get",) if resource.name else ("list", "watch")))
            raise refusal(
                self.name, f"{verb} {resource}", response, scope=resource.scope, grant=grant
            )

    @contextlib.contextmanager
    def _translated(self, doing: str = "") -> Iterator[None]:
        try:
            yield
        except (httpx2.HTTPError, msgspec.DecodeError, ConfigError, OSError) as error:
            raise translated(self.name, error, doing) from error

    def _path(self, resource: Resource[T]) -> str:
        return resource.path(self._served.get(str(resource), resource.versions[0]))

    def _event(self, resource: Resource[T], line: bytes) -> Upserted[T] | Deleted[T] | Bookmark:
        sent = decode(line, _WatchEvent)
        match sent.type:
            case "ADDED" | "MODIFIED":
                return Upserted(resource.read(sent.object))
            case "DELETED":
                return Deleted(resource.read(sent.object))
            case "BOOKMARK":
                return Bookmark(decode(sent.object, _BookmarkObject).metadata.resource_version)
        status = decode(sent.object, Status)
        reason = f"ended the watch of {resource}: {status.code} {legible(status.message)}"
        if status.code == httpx2.codes.GONE:
            raise ExpiredError(self.name, reason)
        raise PeerError(self.name, reason)


def _date(response: httpx2.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers.get("Date", "")).replace(tzinfo=UTC)
    except ValueError:
        return None


def _name(document: Any) -> str:
    """The name of an object to create, if it has one yet."""
    metadata = document.get("metadata", {})
    return str(metadata.get("name") or metadata.get("generateName", ""))


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
    """Split a response at newlines only; an incomplete last line is dropped.

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


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """A resource that this user may not read.

    Attributes:
        resource: Its name in RBAC, with its group: ``deployments.apps``.
        namespace: The only one requested; empty for all.
        error: Which permission is missing.
    """

    resource: str
    namespace: str
    error: EnvironmentLackError

    @property
    def problem(self) -> Problem:
        """The same as a problem, for a report that does without the resource."""
        return Problem(
            subject=self.resource, path="", found=self.error.lack, wanted=self.error.remedy
        )


class Readings:
    """Reads whatever RBAC permits.

    Attributes:
        unreadable: What it was not permitted to read, in the order of the requests.
    """

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self.unreadable: list[Unreadable] = []

    async def read(self, resource: Resource[T]) -> tuple[Item[T], ...] | None:
        """All objects, or None without the right to read them.

        Raises:
            TrothError: They can't be read for another reason.
        """
        try:
            return (await self._client.list(resource)).items
        except NotServedError:
            if resource.is_optional:
                return ()
            raise
        except ForbiddenError as error:
            remedy = resource.grant("get" if resource.name else "list")
            self.unreadable.append(
                Unreadable(
                    resource=str(resource),
                    namespace=resource.place,
                    error=EnvironmentLackError(error.lack, remedy),
                )
            )
            return None
