"""What a replica of the controller answers to the kubelet's readiness probe."""

from __future__ import annotations

import msgspec


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``/readyz``.

    Attributes:
        leading: Whether this replica does the work.
        leader: Who does, as far as is known.
        waiting_for: What is in the way, in words; ready when there is nothing.
        rotation: What the rotation of the root is waiting for.
    """

    leading: bool
    leader: str
    waiting_for: tuple[str, ...] = ()
    rotation: tuple[str, ...] = ()
