"""What differs between two sets of policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec

from troth.policy.model import PeerAuthentication

if TYPE_CHECKING:
    from collections.abc import Sequence


class PolicyChanges(msgspec.Struct, frozen=True, kw_only=True):
    """The policies that only one of two sets has; one that was edited is in both fields.

    Attributes:
        removed: Those that only the former set has.
        added: Those that only the later one has.
    """

    removed: tuple[PeerAuthentication, ...] = ()
    added: tuple[PeerAuthentication, ...] = ()

    @classmethod
    def between(
        cls, before: Sequence[PeerAuthentication], after: Sequence[PeerAuthentication]
    ) -> Self:
        """Compare two sets in which most policies are the very same objects: a glance at each."""
        start = _shared(before, after)
        before, after = before[start:], after[start:]
        end = _shared(before[::-1], after[::-1])
        before, after = before[: len(before) - end], after[: len(after) - end]
        kept, known = {id(policy) for policy in after}, {id(policy) for policy in before}
        removed = [policy for policy in before if id(policy) not in kept]
        added = [policy for policy in after if id(policy) not in known]
        # Read anew, most say what they said.
        former = {policy.key: policy for policy in removed}
        same = {policy.key for policy in added if former.get(policy.key) == policy}
        return cls(
            removed=tuple(policy for policy in removed if policy.key not in same),
            added=tuple(policy for policy in added if policy.key not in same),
        )

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)

    @property
    def all(self) -> tuple[PeerAuthentication, ...]:
        """Every policy that a workload's modes may depend on in only one of the sets."""
        return self.removed + self.added


def _shared(one: Sequence[PeerAuthentication], other: Sequence[PeerAuthentication]) -> int:
    """How many the two have in common before they first differ."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a is not b), min(len(one), len(other)))
