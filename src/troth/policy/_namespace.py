"""The policies of one namespace, arranged for asking which of them count."""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, Self

from troth.policy._scope import by_age

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from troth.policy._model import PeerAuthentication

    Label = tuple[str, str]


class NamespacePolicies:
    """The policies of one namespace, oldest first, found by the labels they select.

    It does not change; `changed` makes another one.

    Attributes:
        policies: All of them.
        oldest_without_selector: The one that counts for the whole namespace or mesh.
    """

    def __init__(self, policies: Iterable[PeerAuthentication] = ()) -> None:
        self.policies = sorted(policies, key=by_age)
        self.oldest_without_selector = self._without_selector()
        self._by_label: dict[Label, tuple[PeerAuthentication, ...]] = {}
        for policy in self.policies:
            self._file(policy)

    def changed(
        self, removed: Iterable[PeerAuthentication], added: Iterable[PeerAuthentication]
    ) -> Self:
        """The same without ``removed`` and with ``added``.

        Costs what is different and a copy of two tables of references.
        """
        new = type(self)()
        new.policies = self.policies.copy()
        new._by_label = self._by_label.copy()
        for policy in removed:
            new.policies.remove(policy)
            new._unfile(policy)
        for policy in added:
            insort(new.policies, policy, key=by_age)
            new._file(policy)
        new.oldest_without_selector = new._without_selector()
        return new

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

    def _without_selector(self) -> PeerAuthentication | None:
        return next((policy for policy in self.policies if not policy.selector), None)

    def _file(self, policy: PeerAuthentication) -> None:
        """Put it under one of its labels: a workload without that can't match."""
        if not policy.selector:
            return
        # The one that leads to the fewest so far, so that a label that all share leads to few.
        label = min(policy.selector.items(), key=lambda label: (len(self._under(label)), label))
        self._by_label[label] = tuple(sorted((*self._under(label), policy), key=by_age))

    def _unfile(self, policy: PeerAuthentication) -> None:
        for label in policy.selector.items():
            there = self._under(label)
            if policy in there:
                self._by_label[label] = tuple(other for other in there if other != policy)
                if not self._by_label[label]:
                    del self._by_label[label]
                return

    def _under(self, label: Label) -> tuple[PeerAuthentication, ...]:
        return self._by_label.get(label, ())
