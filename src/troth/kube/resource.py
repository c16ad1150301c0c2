"""Which objects of an API server are listed or watched, and how each one is read.

Any stored object may be malformed. Only that object is refused, with a problem that names it; its
list or watch continues.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from troth.errors import PeerError, Problem, Severity
from troth.fields import Report
from troth.kube import wire
from troth.kube.wire import decode
from troth.syntax import legible_name

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

_MISFIT = re.compile(r"(?P<found>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)


class Item(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One object as it was read.

    Attributes:
        key: ``NAMESPACE/NAME``, or ``NAME`` for objects outside namespaces.
        uid: Unique; a recreated object has another.
        version: ``metadata.resourceVersion``.
        generation: ``metadata.generation``: changes with the object's ``spec`` only; 0 for kinds
            without it.
        value: What it means; None if it is refused or of no interest.
        problems: Its problems; an error refuses it.
    """

    key: str
    uid: str
    version: str
    generation: int = 0
    value: T | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether it has an error and so can't be used."""
        return any(problem.severity is Severity.ERROR for problem in self.problems)


class Resource(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Objects of one kind.

    Attributes:
        plural: As in its URL, such as ``pods``.
        group: Its API group, empty for the core.
        versions: The supported ones; the first that is served is used.
        read: Makes an item of an object.
        namespace: The only namespace, so that a Role is enough to read them; empty for all.
        name: The only object, which takes a get instead of a list; empty for all.
        field_selector: Only objects with these fields; empty for all.
        label_selector: Only objects with these labels; empty for all.
        is_optional: If it isn't served, there are none.
        page: Objects per page of a list: fewer if users decide how large they are.
        metadata_only: List them without ``spec``, ``status`` and ``data``.
        is_bulk: There are so many that lists should come from the server's cache if possible,
            rather than from its storage.
    """

    plural: str
    group: str = ""
    versions: tuple[str, ...] = ("v1",)
    read: Callable[[msgspec.Raw], Item[T]]
    namespace: str = ""
    name: str = ""
    field_selector: str = ""
    label_selector: str = ""
    is_optional: bool = False
    page: int = 500
    metadata_only: bool = False
    is_bulk: bool = False

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def place(self) -> str:
        """The only namespace; empty for all. A Namespace object counts as in its own."""
        return self.namespace or self.name

    @property
    def scope(self) -> str:
        """The namespace in words, to follow a verb."""
        return f"in namespace {self.place}" if self.place else "in all namespaces"

    def path(self, version: str) -> str:
        """The URL's path."""
        prefix = f"/apis/{self.group}" if self.group else "/api"
        inside = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{prefix}/{version}{inside}/{self.plural}" + (f"/{self.name}" if self.name else "")

    def grant(self, *verbs: str) -> str:
        """How to get the permission for it, for an error's remedy."""
        role = f"Role in namespace {self.place}" if self.place else "ClusterRole"
        return f"have it given by a {role}: {_rule(self.group, self.plural, verbs)}"

    def within(self, namespace: str) -> Resource[T]:
        """The same in one namespace; unchanged if ``namespace`` is empty."""
        return msgspec.structs.replace(self, namespace=namespace) if namespace else self


class ObjectKind(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A kind whose single objects are read and written.

    Attributes:
        kind: Its name, such as ``Pod``.
        plural: As in its URL, such as ``pods``.
        shape: The Python type of an object.
        group: Its API group, empty for the core.
        version: Of the group.
        metadata_only: Read objects without ``spec``, ``status`` and ``data``, which then don't
            leave the API server.
    """

    kind: str
    plural: str
    shape: type[T]
    group: str = ""
    version: str = "v1"
    metadata_only: bool = False

    @property
    def api_version(self) -> str:
        """Group and version, as in ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, name: str = "", namespace: str = "", part: str = "") -> str:
        """The URL's path for an object, a subresource of it, or all objects."""
        place = f"namespaces/{namespace}" if namespace else ""
        steps = ("apis" if self.group else "api", self.api_version, place, self.plural, name, part)
        return "/" + "/".join(filter(None, steps))

    def describe(self, name: str, namespace: str = "", part: str = "") -> str:
        """An object's name in messages."""
        whole = f"{self.kind} {namespace}/{name}" if namespace else f"{self.kind} {name}"
        return f"the {part} of {whole}" if part else whole

    def objects(
        self,
        *,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        page: int = 500,
        is_optional: bool = False,
        is_bulk: bool = False,
    ) -> Resource[T]:
        """All objects of the kind, or the selected ones; arguments as for `Resource`."""
        return Resource(
            plural=self.plural,
            group=self.group,
            versions=(self.version,),
            read=reader(self.kind, functools.partial(decode, kind=self.shape)),
            namespace=namespace,
            field_selector=field_selector,
            label_selector=label_selector,
            page=page,
            is_optional=is_optional,
            metadata_only=self.metadata_only,
            is_bulk=is_bulk,
        )

    def document(self, made: object) -> dict[str, Any]:
        """An object as it is sent: with ``apiVersion`` and ``kind``."""
        return {"apiVersion": self.api_version, "kind": self.kind, **msgspec.to_builtins(made)}

    def grant(self, verb: str, part: str = "") -> str:
        """How to get the permission for it, for an error's remedy."""
        plural = f"{self.plural}/{part}" if part else self.plural
        return f"have it given by RBAC: {_rule(self.group, plural, (verb,))}"


def _rule(group: str, plural: str, verbs: tuple[str, ...]) -> str:
    return f"apiGroups [{group!r}], resources [{plural!r}], verbs {list(verbs)!r}"


def reader(
    kind: str, convert: Callable[[msgspec.Raw], T | None]
) -> Callable[[msgspec.Raw], Item[T]]:
    """Turn a function that converts one object into a `Resource.read`.

    Args:
        kind: The objects' kind, for messages.
        convert: Returns what the object means, or None if it is of no interest. If it raises a
            msgspec error, only that object is refused.
    """

    def read(raw: msgspec.Raw) -> Item[T]:
        header = read_header(raw, kind)
        try:
            return make_item(header, value=convert(raw))
        except msgspec.DecodeError as error:
            return misfit(header, kind, error)

    return read


def read_header(raw: msgspec.Raw, kind: str) -> wire.Header:
    """The metadata that the API server gives every object.

    Raises:
        PeerError: It has none: so it isn't an API server, and nothing that it sends can be used.
    """
    try:
        return decode(raw, wire.Headed).metadata
    except msgspec.DecodeError as error:
        reason = f"sent a {kind} that has no usable metadata: {error}"
        raise PeerError("the API server", reason) from error


def make_item(
    header: wire.Header, *, value: T | None = None, problems: Iterable[Problem] = ()
) -> Item[T]:
    """The item for the object with this header."""
    return Item(
        key=header.key,
        uid=header.uid,
        version=header.resource_version,
        generation=header.generation or 0,
        value=value,
        problems=tuple(problems),
    )


def misfit(header: wire.Header, kind: str, error: msgspec.DecodeError) -> Item[Any]:
    """The item for the object with this header, refused because it doesn't fit the API."""
    match = _MISFIT.fullmatch(str(error))
    said, path = (match["found"], match["path"]) if match else (str(error), "")
    report = Report(subject_of(kind, header))
    found = f"is not what the API has there: {said}"
    report.error(path or "", found, "write it as the API documents it")
    return make_item(header, problems=report.problems)


def subject_of(kind: str, header: wire.Header) -> str:
    """An object's name in problems."""
    parts = (header.namespace, header.name) if header.namespace else (header.name,)
    return f"{kind} {'/'.join(map(legible_name, parts))}"
