"""The definitions of troth's kinds, and of Istio's that it reads: there, and usable?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.check.facts import DEFINITIONS
from troth.check.report import error, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.check.facts import ClusterFacts
    from troth.check.report import Finding


def definitions(facts: ClusterFacts) -> Iterator[Finding]:
    """Judge the definitions."""
    yield from _of_policies(facts)
    yield from _of_reviews(facts)


def _of_policies(facts: ClusterFacts) -> Iterator[Finding]:
    where = "CustomResourceDefinition peerauthentications.security.istio.io"
    if facts.crd is None:
        if DEFINITIONS in facts.unreadable:
            return
        yield warning(
            "no-definition",
            where,
            "isn't there",
            why="Without it nobody can make a policy, and everything is PERMISSIVE.",
            remedy="Run kubectl create -f deploy/crds/peerauthentications.yaml (or install "
            "Istio's own).",
        )
        return
    served = {each.name: each for each in facts.crd.spec.versions if each.served}
    if not served.keys() & {"v1", "v1beta1"}:
        yield error(
            "definition-unusable",
            where,
            f"serves {', '.join(sorted(served)) or 'no version'}",
            why="troth reads v1 and v1beta1, and so would see no policy at all.",
            remedy="Upgrade Istio's definitions.",
        )
    elif not any("status" in (each.subresources or {}) for each in served.values()):
        yield warning(
            "definition-without-status",
            where,
            "has no status subresource",
            why="The controller can't say whether a policy is accepted and enforced.",
            remedy="Upgrade Istio's definitions.",
        )


def _of_reviews(facts: ClusterFacts) -> Iterator[Finding]:
    installed = any(each.metadata.name == facts.home for each in facts.namespaces)
    if facts.review_crd is None and installed and DEFINITIONS not in facts.unreadable:
        yield warning(
            "no-definition",
            "CustomResourceDefinition connectionreviews.troth.dev",
            "isn't there",
            why="Without it node agents can't be asked: troth why, audit, trace, events.",
            remedy="Run kubectl apply -f deploy/crds/connectionreviews.yaml.",
        )
