"""What a root rotation still waits for, by what the nodes have reported: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from troth._contract import LONGEST_LIFETIME
from troth.controller.keyring import Phase
from troth.identity.profile import root_fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from troth._contract import NodeReport
    from troth.controller.keyring import Keyring


class Stand(Protocol):
    """Where a rotation stands; a `Keyring` says it, too."""

    @property
    def phase(self) -> Phase:
        """Its phase."""

    @property
    def since(self) -> datetime | None:
        """When the phase began."""

    @property
    def arriving(self) -> frozenset[str]:
        """Fingerprints of the roots that are believed and do not sign yet."""

    @property
    def leaving(self) -> frozenset[str]:
        """Fingerprints of the roots that no longer sign."""


def awaited(
    stand: Stand, reports: Mapping[str, NodeReport | None], *, now: datetime
) -> tuple[str, ...]:
    """What the present phase is waiting for, in words; empty when it may end.

    A node that is silent is waited for, since its Envoy may run on without its agent. It is given
    up when its Node is deleted, and its report with it.

    Args:
        stand: Of the rotation.
        reports: By node; None for one that can't be read.
        now: The time.
    """
    if stand.phase is Phase.STABLE:
        return ()
    if (
        stand.phase is Phase.SWITCHED
        and stand.since is not None
        and now > stand.since + LONGEST_LIFETIME
    ):
        return ()  # nothing that the old root signed is valid any longer
    if not reports:
        return ("the first node's report",)
    if stand.phase is Phase.DISTRIBUTING:
        return tuple(
            f"{name} to believe in the new root"
            for name, report in sorted(reports.items())
            if report is None or not stand.arriving <= report.roots
        )
    return tuple(
        f"{name} to renew its certificates"
        for name, report in sorted(reports.items())
        if report is None or stand.leaving & report.issuers
    )


def signing_root(keyring: Keyring) -> str:
    """Fingerprint of the root that new certificates chain to."""
    # There are several only where the user's own authority comes with more than its root.
    return root_fingerprint(keyring.signing.trust_bundle.certificates[0])
