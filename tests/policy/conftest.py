"""A short notation for policies and workloads, so that tables of them fit on a page.

A policy is ``NAMESPACE/NAME {KEY=VALUE,...} MODE PORT=MODE ... @DAY``; all but the key can be left
out. Policies are separated by semicolons. A policy without ``@DAY`` has no creationTimestamp.
A workload is ``NAMESPACE KEY=VALUE ...``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import pytest

from troth.policy.index import PolicyIndex
from troth.policy.model import Mode, PeerAuthentication
from troth.policy.verdict import PolicyVerdict

ROOT = "istio-system"

Policies: TypeAlias = Callable[[str], list[PeerAuthentication]]
Decide: TypeAlias = Callable[..., PolicyVerdict]

_POLICY = re.compile(
    r"(?P<namespace>[\w-]+)/(?P<name>[\w.-]+)"
    r"( \{(?P<selector>[^}]*)\})?"
    r"( (?P<mode>[A-Z]+))?"
    r"(?P<ports>( \d+=[A-Z]+)*)"
    r"( @(?P<day>\d+))?"
)


def _policy(text: str) -> PeerAuthentication:
    match = _POLICY.fullmatch(text.strip())
    assert match, f"not in the notation: {text}"
    ports = (entry.split("=") for entry in match["ports"].split())
    day = match["day"]
    return PeerAuthentication(
        namespace=match["namespace"],
        name=match["name"],
        selector=_labels((match["selector"] or "").split(",")),
        mode=Mode(match["mode"] or "UNSET"),
        port_modes={int(port): Mode(mode) for port, mode in ports},
        created=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=int(day)) if day else None,
    )


def _labels(pairs: list[str]) -> dict[str, str]:
    return dict(pair.split("=") for pair in pairs if pair)


def _policies(text: str) -> list[PeerAuthentication]:
    return [_policy(part) for part in text.split(";") if part.strip()]


@pytest.fixture
def policies() -> Policies:
    """Read policies in the notation above."""
    return _policies


@pytest.fixture
def decide() -> Decide:
    """Ask for the effective modes: ``decide(POLICIES, WORKLOAD, ports=...)``."""

    def verdict(text: str, workload: str, ports: tuple[int, ...] = ()) -> PolicyVerdict:
        namespace, *labels = workload.split()
        index = PolicyIndex(_policies(text), root_namespace=ROOT)
        return index.effective(namespace, _labels(labels), ports)

    return verdict
