"""Read one PeerAuthentication from decoded YAML or JSON, refusing what Istio's API refuses.

The rules are those of Istio's CustomResourceDefinition (its schema and CEL rules) and of Kubernetes
for names and labels. A document may be anything a decoder yields, of any type anywhere: it is
looked at, never trusted, and every problem is reported, not only the first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from troth.errors import Problem, Severity
from troth.policy.model import API_VERSIONS, KIND, Mode, PeerAuthentication
from troth.syntax import (
    LABEL_VALUE,
    NAME,
    NAMESPACE,
    described,
    field_path,
    key_path,
    label_key_flaw,
    legible_name,
)

if TYPE_CHECKING:
    from troth.errors import Location

Decoded: TypeAlias = Mapping[object, object]


class Shape(NamedTuple):
    """What a mapping may hold.

    Attributes:
        fields: The fields it has; empty for a map with free keys.
        example: What to write, shown when something else stands there.
    """

    fields: tuple[str, ...]
    example: str


class Reader:
    """Collects the problems of one document.

    Attributes:
        problems: All that was written down, in the order of reading.
    """

    def __init__(self, subject: str, location: Location | None) -> None:
        self._subject = subject
        self._location = location
        self.problems: list[Problem] = []

    @property
    def errors(self) -> int:
        """How many of the problems refuse the document."""
        return sum(problem.severity is Severity.ERROR for problem in self.problems)

    def refuse(self, path: str, found: str, wanted: str) -> None:
        """Write down an error."""
        self._add(path, found, wanted, Severity.ERROR)

    def warn(self, path: str, found: str, wanted: str) -> None:
        """Write down a warning."""
        self._add(path, found, wanted, Severity.WARNING)

    def _add(self, path: str, found: str, wanted: str, severity: Severity) -> None:
        self.problems.append(
            Problem(
                subject=self._subject,
                path=path,
                found=found,
                wanted=wanted,
                severity=severity,
                location=self._location,
            )
        )

    def mapping(self, value: object, path: str, shape: Shape) -> Decoded:
        """The mapping at ``path``; empty when it is missing, null or (refused) something else.

        Fields it doesn't have are dropped with a warning, as the Kubernetes API does.
        """
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            found = f"is {described(value)}"
            self.refuse(path, found, f"write a mapping, such as {{{shape.example}}}")
            return {}
        for field in value if shape.fields else ():
            if field not in shape.fields:
                self.warn(
                    field_path(path, field),
                    "is an unknown field and has no effect",
                    _nearest_field(field, shape.fields),
                )
        return value


def _nearest_field(field: object, fields: tuple[str, ...]) -> str:
    if isinstance(field, str):
        spellings = {known.lower(): known for known in fields}
        typed = field[:64].lower().replace("_", "").replace("-", "")
        for spelling in difflib.get_close_matches(typed, spellings, n=1, cutoff=0.7):
            return f"did you mean {spellings[spelling]}?"
    if len(fields) == 1:
        return f"the only field here is {fields[0]}"
    return f"the fields here are {', '.join(fields)}"


_TOP = Shape(("apiVersion", "kind", "metadata", "spec", "status"), f"kind: {KIND}, ...")
_METADATA = Shape(
    (
        "name",
        "namespace",
        "labels",
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ),
    "name: default",
)
_SPEC = Shape(("selector", "mtls", "portLevelMtls"), "mtls: {mode: STRICT}")
_SELECTOR = Shape(("matchLabels",), "matchLabels: {app: web}")
_MATCH_LABELS = Shape((), "app: web")
_MTLS = Shape(("mode",), "mode: STRICT")
_PORTS = Shape((), "8080: {mode: STRICT}")

_SAFEST = (Mode.STRICT, Mode.UNSET, Mode.PERMISSIVE, Mode.DISABLE)
_MODES = "STRICT, PERMISSIVE, DISABLE or UNSET"
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_PORT_KEY = re.compile(r"[0-9]{1,20}")
_STORED_PORT_KEY = re.compile(r"[-+]?[0-9]{1,20}")
"""What the CEL of Istio's definition takes for a number, and Istio as well."""
_LAST_PORT = 65535

UNNAMED = "generateName makes another object each time, and kubectl apply refuses it: give a name"
"""What to do where ``metadata.generateName`` stands instead of a name."""


def parse_peer_authentication(
    document: object, *, location: Location | None = None, stored: bool = False
) -> tuple[PeerAuthentication | None, tuple[Problem, ...]]:
    """Read a policy and say all that is wrong with it.

    Args:
        document: One decoded YAML or JSON document.
        location: Where it was read; goes into the problems and the policy.
        stored: The object is in a cluster already, so that what Istio makes of it holds. Labels
            that no pod can have select none; ports that are none, or stand without selector
            labels, are ignored, and the mode counts. In a file all that is an error.

    Returns:
        The policy, or None when a problem is an error; and the problems, warnings among them.
    """
    reader = Reader(_subject(document), location)
    if document is None:
        reader.refuse("", "is empty", f"write a mapping, such as {{{_TOP.example}}}")
        return None, tuple(reader.problems)
    top = reader.mapping(document, "", _TOP)
    if not isinstance(document, Mapping):
        return None, tuple(reader.problems)
    api_version = _api_version(reader, top)
    metadata = reader.mapping(top.get("metadata"), "metadata", _METADATA)
    namespace, name = _names(reader, metadata)
    created = _created(reader, metadata.get("creationTimestamp"))
    spec = reader.mapping(top.get("spec"), "spec", _SPEC)
    selector = _selector(reader, spec.get("selector"), stored=stored)
    mode = _mode(reader, spec.get("mtls"), "spec.mtls")
    port_modes = _port_modes(reader, spec.get("portLevelMtls"), selector, stored=stored)
    if reader.errors:
        return None, tuple(reader.problems)
    policy = PeerAuthentication(
        namespace=namespace,
        name=name,
        selector=selector or {},
        mode=mode,
        port_modes=port_modes,
        created=created,
        api_version=api_version,
        location=location,
    )
    return policy, tuple(reader.problems)


def _subject(document: object) -> str:
    """What names the document best, whatever state it is in."""
    metadata = document.get("metadata") if isinstance(document, Mapping) else None
    if not isinstance(metadata, Mapping):
        return KIND
    namespace, name = metadata.get("namespace") or "default", metadata.get("name")
    return f"{KIND} {legible_name(namespace)}/{legible_name(name)}"


def _api_version(reader: Reader, top: Decoded) -> str:
    for field, known in (("apiVersion", API_VERSIONS), ("kind", (KIND,))):
        value = top.get(field)
        if value not in known:
            found = "is missing" if value is None else f"is {described(value)}"
            reader.refuse(field, found, f"write {' or '.join(known)}")
    return _text(top.get("apiVersion"))


def _names(reader: Reader, metadata: Decoded) -> tuple[str, str]:
    name = metadata.get("name")
    if name is None or name == "":
        wanted = UNNAMED if metadata.get("generateName") else "give the policy a name"
        reader.refuse("metadata.name", "is missing", wanted)
    elif flaw := NAME.flaw(name):
        reader.refuse("metadata.name", *flaw)
    namespace = metadata.get("namespace")
    if namespace is None or namespace == "":
        namespace = "default"
    if flaw := NAMESPACE.flaw(namespace):
        reader.refuse("metadata.namespace", *flaw)
    return _text(namespace), _text(name)


def _text(value: object) -> str:
    # Not str(): Python refuses to print an integer of some thousand digits.
    return value if isinstance(value, str) else ""


def _created(reader: Reader, value: object) -> datetime | None:
    if value is None:
        return None
    moment = value if isinstance(value, datetime) else _rfc3339(value)
    if moment is not None and moment.tzinfo is not None:
        try:
            return moment.astimezone(UTC)
        except OverflowError:  # the first or last hours of the calendar
            pass
    reader.refuse(
        "metadata.creationTimestamp",
        f"is {described(value)}",
        "write a time with its zone, such as 2026-01-31T12:00:00Z (RFC 3339), or leave it out",
    )
    return None


def _rfc3339(value: object) -> datetime | None:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:  # well-formed, but no such day or hour
        return None


def _selector(reader: Reader, value: object, *, stored: bool) -> dict[str, str] | None:
    """The labels to match; empty for no selector, None when what stands there is refused."""
    if value is None:
        return {}
    path = "spec.selector.matchLabels"
    before = reader.errors
    selector = reader.mapping(value, "spec.selector", _SELECTOR)
    labels = reader.mapping(selector.get("matchLabels"), path, _MATCH_LABELS)
    for key, text in labels.items():
        for place, part, flaw in (
            (path, key, label_key_flaw(key)),
            (key_path(path, key), text, LABEL_VALUE.flaw(text)),
        ):
            if flaw and stored and isinstance(part, str):
                # Refused, it would leave the version before it in force, which may protect less.
                found, wanted = flaw
                reader.warn(place, f"{found}, which no pod can have: it selects none", wanted)
            elif flaw:
                reader.refuse(place, *flaw)
    if reader.errors > before:
        return None
    if not labels:
        reader.warn(
            path if "matchLabels" in selector else "spec.selector",
            "is empty, so the policy holds for all of its namespace (in the root namespace: for "
            "all of the mesh)",
            "name labels, or leave the selector out",
        )
    return {str(key): str(text) for key, text in labels.items()}


def _mode(reader: Reader, mtls: object, path: str) -> Mode:
    value = reader.mapping(mtls, path, _MTLS).get("mode")
    if value is None:
        return Mode.UNSET
    if isinstance(value, str) and value in Mode.__members__:
        return Mode(value)
    wanted = f"write {_MODES}"
    if isinstance(value, str):
        typed = value[:64].strip().upper()
        for near in difflib.get_close_matches(typed, list(Mode), n=1, cutoff=0.7):
            wanted = f"write {near}, in exactly these letters"
    reader.refuse(f"{path}.mode", f"is {described(value)}", wanted)
    return Mode.UNSET


def _port_modes(
    reader: Reader, value: object, selector: dict[str, str] | None, *, stored: bool
) -> dict[int, Mode]:
    path = "spec.portLevelMtls"
    # What the API refuses but finds in a cluster all the same is ignored, as Istio does.
    complain = reader.warn if stored else reader.refuse
    if value is None:
        return {}
    entries = reader.mapping(value, path, _PORTS)
    if isinstance(value, Mapping) and not entries:
        complain(path, "is empty", "name a port, or leave it out")
    modes: dict[int, Mode] = {}
    for key, mtls in entries.items():
        port = _port(key, stored=stored)
        mode = _mode(reader, mtls, key_path(path, key))
        if port is None:
            ignored = ", so it is ignored" if stored else ""
            wanted = f"write a number, 1 to {_LAST_PORT}"
            complain(key_path(path, key), f"is not a port{ignored}", wanted)
        elif port in modes:
            modes[port] = min(mode, modes[port], key=_SAFEST.index)
            counts = f", of which {modes[port]} counts" if stored else ""
            complain(key_path(path, key), f"sets port {port} again{counts}", "keep one of the two")
        else:
            modes[port] = mode
    if entries and selector == {}:
        ignored = ", so it is ignored" if stored else ""
        complain(
            path,
            f"stands without selector labels{ignored}",
            "add spec.selector.matchLabels, or leave portLevelMtls out",
        )
        return {}
    if entries and not reader.errors and all(mtls is None for mtls in entries.values()):
        found = "has nothing but null, which an API server drops, and then refuses what is left"
        reader.warn(path, found, "give a port a mode, or leave portLevelMtls out")
    return modes


def _port(key: object, *, stored: bool) -> int | None:
    if isinstance(key, str) and (_STORED_PORT_KEY if stored else _PORT_KEY).fullmatch(key):
        key = int(key)
    if isinstance(key, int) and not isinstance(key, bool) and 1 <= key <= _LAST_PORT:
        return key
    return None
