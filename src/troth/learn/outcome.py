"""What became of a connection, and how that differs from what a lesson expects of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from troth.demo.scenario import Happened
from troth.handshake.steps import TraceReport
from troth.learn.lesson import CertificateAge, Expectation
from troth.policy.model import Mode
from troth.traffic.connection import Connection, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.demo.walk import SeenConnection

NOTHING = "none"
DEFAULT = "default"


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a connection; as `Expectation` has it.

    Attributes:
        detail: What became of it, in words.
        event: What the server's proxy reports about this very connection.
        handshake: The handshake that was traced; None for an ordinary request.
    """

    happens: Happened
    answers: str = NOTHING
    detail: str
    identity: str
    reason: Reason
    mode: Mode | None
    decided_by: str
    alert: str
    wire: tuple[str, ...] = ()
    certificate: CertificateAge | None = None
    ready: bool | None = None
    event: Connection | None = None
    handshake: TraceReport | None = None


def observed(
    seen: SeenConnection,
    handshake: TraceReport | None = None,
    *,
    answers: str = "",
    certificate: CertificateAge | None = None,
    ready: bool | None = None,
) -> Observation:
    """Tell what was seen of a connection in the words of a lesson."""
    event = seen.event
    decider = event.decided_by if event else None
    return Observation(
        happens=seen.happened,
        answers=answers or NOTHING,
        detail=seen.detail,
        identity=_account(event.peer) if event and event.peer else NOTHING,
        reason=event.reason if event else Reason.NONE,
        mode=event.mode if event else None,
        decided_by=(decider.policy or DEFAULT) if decider else NOTHING,
        alert=seen.alert or NOTHING,
        wire=tuple(f"{each.actor} {each.kind}" for each in handshake.handshake.events)
        if handshake
        else (),
        certificate=certificate,
        ready=ready,
        event=event,
        handshake=handshake,
    )


def differences(expected: Expectation, seen: Observation) -> Iterator[str]:
    """How what happened differs from what should have."""
    for name, word in _FIELDS.items():
        wanted, is_so = getattr(expected, name), getattr(seen, name)
        if wanted is not None and wanted != is_so:
            yield f"{word}: expected {said(wanted)}, but {said(is_so)}"
    if expected.wire and not _in_order(expected.wire, seen.wire):
        yield f"on the wire: expected {' before '.join(expected.wire)}, but it was otherwise"


_FIELDS = {
    "happens": "what happens",
    "answers": "who answers",
    "identity": "the identity that the server saw",
    "reason": "the reason",
    "mode": "the mode",
    "decided_by": "what decided",
    "alert": "the server's alert",
    "certificate": "the server's certificate",
    "ready": "ready for STRICT",
}


def expectation_rows(expected: Expectation) -> Iterator[tuple[str, str]]:
    """What is expected, by the words for it."""
    for name, word in _FIELDS.items():
        if (value := getattr(expected, name)) is not None:
            yield word, said(value)
    if expected.wire:
        yield "on the wire", " before ".join(expected.wire)


def said(value: object) -> str:
    """A value of an expectation or observation in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "nothing known" if value is None else str(value).replace("_", " ")


def _in_order(wanted: tuple[str, ...], wire: tuple[str, ...]) -> bool:
    left = iter(wire)
    return all(each in left for each in wanted)


def _account(peer: str) -> str:
    """``NAMESPACE/NAME`` of the service account of a SPIFFE ID."""
    _, _, path = peer.partition("/ns/")
    return path.replace("/sa/", "/")
