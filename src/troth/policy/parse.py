"""Read one PeerAuthentication from decoded YAML or JSON, refusing what Istio's API refuses.

The rules are those of Istio's CustomResourceDefinition (its schema and CEL rules) and of Kubernetes
for names and labels. A document is untrusted: any value may have any type a decoder yields. Every
problem is reported, not only the first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from troth.fields import OBJECT_META, UNNAMED, Fields, Report
from troth.policy.model import API_VERSIONS, KIND, Mode, PeerAuthentication
from troth.syntax import (
    LABEL_VALUE,
    NAME,
    NAMESPACE,
    closest,
    described,
    key_path,
    label_key_flaw,
    legible_name,
)

if TYPE_CHECKING:
    from troth.errors import Location, Problem

_EXAMPLE = f"kind: {KIND}, ..."
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_SPEC = ("selector", "mtls", "portLevelMtls")
_SAFEST = (Mode.STRICT, Mode.UNSET, Mode.PERMISSIVE, Mode.DISABLE)
_MODES = "STRICT, PERMISSIVE, DISABLE or UNSET"
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_PORT_KEY = re.compile(r"[0-9]{1,20}")
_STORED_PORT_KEY = re.compile(r"[-+]?[0-9]{1,20}")
"""A number, to Istio and to the CEL rules of its CustomResourceDefinition."""
_LAST_PORT = 65535


def parse_peer_authentication(
    document: object, *, location: Location | None = None, stored: bool = False
) -> tuple[PeerAuthentication | None, tuple[Problem, ...]]:
    """Read a policy and report all its problems.

    Args:
        document: One decoded YAML or JSON document.
        location: Where it was read; goes into the problems and the policy.
        stored: See `read_peer_authentication`.

    Returns:
        The policy, or None if a problem is an error; and the problems, including warnings.
    """
    report = Report(_subject(document), lambda _: location)
    if document is None:
        report.error("", "is empty", f"write a mapping, such as {{{_EXAMPLE}}}")
        return None, report.problems
    top = Fields(document, "", report, _EXAMPLE)
    if report.errors:
        return None, report.problems
    policy = read_peer_authentication(top, location=location, stored=stored)
    return policy, report.problems


def read_peer_authentication(
    top: Fields, *, location: Location | None = None, stored: bool = False
) -> PeerAuthentication | None:
    """Read a policy; problems go to the report of its fields.

    Args:
        top: The policy's fields.
        location: Where it was read; goes into the policy.
        stored: The object is in a cluster already, so it is read as Istio reads it. Labels that
            no pod can have select none; invalid ports, and ports without selector labels, are
            ignored, and the mode counts. In a file each of these is an error.

    Returns:
        None if a problem is an error.
    """
    top.only(_TOP)
    for field, known in (("apiVersion", API_VERSIONS), ("kind", (KIND,))):
        value = top.value(field)
        if value not in known:
            found = "is missing" if value is None else f"is {described(value)}"
            top.error(field, found, f"write {' or '.join(known)}")
    metadata = top.fields("metadata", OBJECT_META, example="name: default")
    wanted = UNNAMED if metadata.value("generateName") else "give the policy a name"
    name = metadata.needed("name", wanted, rule=NAME)
    namespace = metadata.string("namespace", rule=NAMESPACE) or "default"
    created = _created(metadata)
    spec = top.fields("spec", _SPEC, example="mtls: {mode: STRICT}")
    selector = _selector(spec, stored=stored)
    mode = _mode(spec.fields("mtls", ("mode",), example="mode: STRICT"))
    port_modes = _port_modes(spec, selector, stored=stored)
    if top.report.errors:
        return None
    return PeerAuthentication(
        namespace=namespace,
        name=name,
        selector=selector or {},
        mode=mode,
        port_modes=port_modes,
        created=created,
        api_version=top.string("apiVersion"),
        location=location,
    )


def _subject(document: object) -> str:
    """The best name for the document, however broken it is."""
    metadata = document.get("metadata") if isinstance(document, Mapping) else None
    if not isinstance(metadata, Mapping):
        return KIND
    namespace, name = metadata.get("namespace") or "default", metadata.get("name")
    return f"{KIND} {legible_name(namespace)}/{legible_name(name)}"


def _created(metadata: Fields) -> datetime | None:
    value = metadata.value("creationTimestamp")
    if value is None:
        return None
    moment = value if isinstance(value, datetime) else _rfc3339(value)
    if moment is not None and moment.tzinfo is not None:
        try:
            return moment.astimezone(UTC)
        except OverflowError:  # the first or last hours of the calendar
            pass
    wanted = "write a time with its zone, such as 2026-01-31T12:00:00Z (RFC 3339), or leave it out"
    metadata.error("creationTimestamp", f"is {described(value)}", wanted)
    return None


def _rfc3339(value: object) -> datetime | None:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:  # well-formed, but no such day or hour
        return None


def _selector(spec: Fields, *, stored: bool) -> dict[str, str] | None:
    """The labels to match; empty without a selector, None if the selector is invalid."""
    if "selector" not in spec:
        return {}
    report = spec.report
    before = report.errors
    selector = spec.fields("selector", ("matchLabels",), example="matchLabels: {app: web}")
    labels = selector.fields("matchLabels", example="app: web")
    for key, text in labels.entries.items():
        for place, part, flaw in (
            (labels.path, key, label_key_flaw(key)),
            (key_path(labels.path, key), text, LABEL_VALUE.flaw(text)),
        ):
            if flaw and stored and isinstance(part, str):
                # Refusing it would keep the previous version in force, which may protect less.
                found, wanted = flaw
                report.warn(place, f"{found}, which no pod can have: it selects none", wanted)
            elif flaw:
                report.error(place, *flaw)
    if report.errors > before:
        return None
    if not labels.entries:
        report.warn(
            labels.path if "matchLabels" in selector.entries else selector.path,
            "is empty, so the policy holds for all of its namespace (in the root namespace: for "
            "all of the mesh)",
            "name labels, or leave the selector out",
        )
    return {str(key): str(text) for key, text in labels.entries.items()}


def _mode(mtls: Fields) -> Mode:
    value = mtls.value("mode")
    if value is None:
        return Mode.UNSET
    if isinstance(value, str) and value in Mode.__members__:
        return Mode(value)
    near = closest(value, Mode) if isinstance(value, str) else ""
    wanted = f"write {near}, in exactly these letters" if near else f"write {_MODES}"
    mtls.error("mode", f"is {described(value)}", wanted)
    return Mode.UNSET


def _port_modes(spec: Fields, selector: dict[str, str] | None, *, stored: bool) -> dict[int, Mode]:
    if "portLevelMtls" not in spec:
        return {}
    report = spec.report
    # Like Istio, ignore what the API would refuse today but is stored in a cluster nevertheless.
    complain = report.warn if stored else report.error
    before = report.errors
    ports = spec.fields("portLevelMtls", example="8080: {mode: STRICT}")
    path, entries = ports.path, ports.entries
    if not entries and report.errors == before:
        complain(path, "is empty", "name a port, or leave it out")
    modes: dict[int, Mode] = {}
    for key, mtls in entries.items():
        port = _port(key, stored=stored)
        place = key_path(path, key)
        fields = Fields(mtls, place, report, "mode: STRICT")
        fields.only(("mode",))
        mode = _mode(fields)
        if port is None:
            ignored = ", so it is ignored" if stored else ""
            complain(place, f"is not a port{ignored}", f"write a number, 1 to {_LAST_PORT}")
        elif port in modes:
            modes[port] = min(mode, modes[port], key=_SAFEST.index)
            counts = f", of which {modes[port]} counts" if stored else ""
            complain(place, f"sets port {port} again{counts}", "keep one of the two")
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
    if entries and not report.errors and all(mtls is None for mtls in entries.values()):
        found = "has nothing but null, which an API server drops, and then refuses what is left"
        report.warn(path, found, "give a port a mode, or leave portLevelMtls out")
    return modes


def _port(key: object, *, stored: bool) -> int | None:
    if isinstance(key, str) and (_STORED_PORT_KEY if stored else _PORT_KEY).fullmatch(key):
        key = int(key)
    if isinstance(key, int) and not isinstance(key, bool) and 1 <= key <= _LAST_PORT:
        return key
    return None
