"""Which objects of an API server are listed or watched, and how each one is read.

Somebody may always have stored an object that isn't as expected. It is refused by itself, with a
problem that names it: the list or watch that it came with goes on.
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
        uid: Names this one incarnation.
        version: ``metadata.resourceVersion``.
        generation: ``metadata.generation``: changes with what the object asks for, and with that
            alone; 0 for kinds without it.
        value: What it means; None when it is refused or of no interest.
        problems: What is wrong with it; an error refuses it.
    """

    key: str
    uid: str
    version: str
    generation: int = 0
    value: T | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether an error keeps it from being used."""
        return any(problem.severity is Severity.ERROR for problem in self.problems)


class Resource(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Objects of one kind.

    Attributes:
        plural: As in its URL, such as ``pods``.
        group: Its API group, empty for the core.
        versions: Those understood; the first that is served is used.
        read: Makes an item of an object.
        namespace: The only one whose objects are meant, so that a Role is enough to read them.
        name: Of the one object meant, which is got and not listed.
        field_selector: Leaves only the objects with these fields; empty for all.
        label_selector: The same for labels.
        is_optional: That it isn't served means that there are none.
        page: Objects in one answer to a list: fewer where users decide how large they are.
        metadata_only: List them without ``spec``, ``status`` and ``data``.
        is_bulk: There are so many that a list should not cost the server a read of its storage,
            where the cache will do.
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
        """The only namespace concerned; empty for all. A Namespace object is in its own."""
        return self.namespace or self.name

    @property
    def scope(self) -> str:
        """Where its objects are, in words that follow a verb."""
        return f"in namespace {self.place}" if self.place else "in all namespaces"

    def path(self, version: str) -> str:
        """Its URL's path."""
        prefix = f"/apis/{self.group}" if self.group else "/api"
        inside = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{prefix}/{version}{inside}/{self.plural}" + (f"/{self.name}" if self.name else "")

    def grant(self, *verbs: str) -> str:
        """What gives the permission for it."""
        role = f"Role in namespace {self.place}" if self.place else "ClusterRole"
        return f"have it given by a {role}: {_rule(self.group, self.plural, verbs)}"

    def within(self, namespace: str) -> Resource[T]:
        """Those of one namespace; the same for an empty one."""
        return msgspec.structs.replace(self, namespace=namespace) if namespace else self


class ObjectKind(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A kind of which single objects are read and written.

    Attributes:
        kind: Its name, such as ``Pod``.
        plural: As in its URL, such as ``pods``.
        shape: What an object is read as.
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
        """The URL's path of an object, of a subresource of it, or of all objects."""
        place = f"namespaces/{namespace}" if namespace else ""
        steps = ("apis" if self.group else "api", self.api_version, place, self.plural, name, part)
        return "/" + "/".join(filter(None, steps))

    def describe(self, name: str, namespace: str = "", part: str = "") -> str:
        """Names an object in messages."""
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
        """An object as it is sent: with its kind."""
        return {"apiVersion": self.api_version, "kind": self.kind, **msgspec.to_builtins(made)}

    def grant(self, verb: str, part: str = "") -> str:
        """What gives the permission for it."""
        plural = f"{self.plural}/{part}" if part else self.plural
        return f"have it given by RBAC: {_rule(self.group, plural, (verb,))}"


def _rule(group: str, plural: str, verbs: tuple[str, ...]) -> str:
    return f"apiGroups [{group!r}], resources [{plural!r}], verbs {list(verbs)!r}"


def reader(
    kind: str, convert: Callable[[msgspec.Raw], T | None]
) -> Callable[[msgspec.Raw], Item[T]]:
    """Make a `Resource.read` of a function that reads one object.

    Args:
        kind: The objects' kind, for messages.
        convert: Gives what the object means, or None if it is of no interest. If it raises a
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
        PeerError: It has not; then it is no API server, and nothing that it sends can be used.
    """
    try:
        return decode(raw, wire.Headed).metadata
    except msgspec.DecodeError as error:
        reason = f"sent a {kind} that has no usable metadata: {error}"
        raise PeerError("the API server", reason) from error


def make_item(
    header: wire.Header, *, value: T | None = None, problems: Iterable[Problem] = ()
) -> Item[T]:
    """What was read of the object with that header."""
    return Item(
        key=header.key,
        uid=header.uid,
        version=header.resource_version,
        generation=header.generation or 0,
        value=value,
        problems=tuple(problems),
    )


def misfit(header: wire.Header, kind: str, error: msgspec.DecodeError) -> Item[Any]:
    """The object with that header, refused because it isn't what the API has."""
    match = _MISFIT.fullmatch(str(error))
    said, path = (match["found"], match["path"]) if match else (str(error), "")
    report = Report(subject_of(kind, header))
    found = f"is not what the API has there: {said}"
    report.error(path or "", found, "write it as the API documents it")
    return make_item(header, problems=report.problems)


def subject_of(kind: str, header: wire.Header) -> str:
    """An object as problems name it."""
    parts = (header.namespace, header.name) if header.namespace else (header.name,)
    return f"{kind} {'/'.join(map(legible_name, parts))}"
