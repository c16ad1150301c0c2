"""The policies of one namespace, arranged for asking which of them count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from troth.policy.scope import by_age

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from troth.policy.model import PeerAuthentication

    Label = tuple[str, str]


class NamespacePolicies:
    """The policies of one namespace, found by the labels they select.

    It does not change; `changed` makes another one.

    Args:
        policies: In any order.
        by_label: Those with a selector, each under one of its labels; made if it isn't given.

    Attributes:
        policies: All of them, oldest first.
        oldest_without_selector: The one that counts for the whole namespace or mesh.
    """

    def __init__(
        self,
        policies: Iterable[PeerAuthentication] = (),
        by_label: Mapping[Label, tuple[PeerAuthentication, ...]] | None = None,
    ) -> None:
        self.policies = sorted(policies, key=by_age)
        self.oldest_without_selector = next((p for p in self.policies if not p.selector), None)
        if by_label is None:
            files: dict[Label, tuple[PeerAuthentication, ...]] = {}
            for policy in self.policies:
                _file(files, policy)
            by_label = files
        self._by_label = by_label

    def changed(
        self, removed: Iterable[PeerAuthentication], added: Iterable[PeerAuthentication]
    ) -> Self:
        """The same without ``removed`` and with ``added``.

        Costs what is different and a copy of two tables of references.
        """
        policies, by_label = self.policies.copy(), dict(self._by_label)
        for policy in removed:
            policies.remove(policy)
            _unfile(by_label, policy)
        for policy in added:
            policies.append(policy)
            _file(by_label, policy)
        return type(self)(policies, by_label)

    def oldest_matching(self, labels: Mapping[str, str]) -> PeerAuthentication | None:
        """The oldest policy whose selector matches ``labels``."""
        return min(self._first_matches(labels), key=by_age, default=None)

    def matching(self, labels: Mapping[str, str]) -> list[PeerAuthentication]:
        """All policies whose selector matches ``labels``, oldest first."""
        found = (
            policy
            for label in labels.items()
            for policy in self._by_label.get(label, ())
            if policy.selector.items() <= labels.items()
        )
        return sorted(found, key=by_age)

    def _first_matches(self, labels: Mapping[str, str]) -> Iterator[PeerAuthentication]:
        for label in labels.items():
            for policy in self._by_label.get(label, ()):
                if policy.selector.items() <= labels.items():
                    yield policy
                    break  # the others under this label are younger


def _file(
    by_label: dict[Label, tuple[PeerAuthentication, ...]], policy: PeerAuthentication
) -> None:
    """Put a policy under one of its labels: a workload without that can't match."""
    if not policy.selector:
        return
    # The one that leads to the fewest so far, so that a label that all share leads to few.
    label = min(policy.selector.items(), key=lambda label: (len(by_label.get(label, ())), label))
    by_label[label] = tuple(sorted((*by_label.get(label, ()), policy), key=by_age))


def _unfile(
    by_label: dict[Label, tuple[PeerAuthentication, ...]], policy: PeerAuthentication
) -> None:
    for label in policy.selector.items():
        there = by_label.get(label, ())
        if policy in there:
            by_label[label] = tuple(other for other in there if other != policy)
            if not by_label[label]:
                del by_label[label]
            return
