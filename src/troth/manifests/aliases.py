"""Services of type ExternalName: names that stand for other names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from troth.manifests.workloads import ServiceSpec

CLUSTER_DOMAIN = "cluster.local"
"""The suffix of Services' full names."""

MOST_ALIASES = 8
"""How many such Services one name may lead through."""


def aliases(services: Iterable[ServiceSpec]) -> tuple[dict[str, str], tuple[Problem, ...]]:
    """What ExternalName Services stand for.

    Returns:
        The name by ``NAMESPACE/NAME``, in lower case and without a dot at its end; and why others
        resolve to nothing.
    """
    targets = {
        f"{each.namespace}/{each.name}": each.external_name.removesuffix(".").lower()
        for each in services
        if each.type == "ExternalName"
    }
    located = {f"{each.namespace}/{each.name}": each.location for each in services}
    problems = []
    for key in targets:
        found = _flaw(key, targets)
        if found:
            problems.append(
                Problem(
                    subject=f"Service {key}",
                    path="spec.externalName",
                    found=found,
                    wanted="name something else than a Service of type ExternalName",
                    location=located[key],
                )
            )
    bad = {problem.subject.removeprefix("Service ") for problem in problems}
    return {key: name for key, name in targets.items() if key not in bad}, tuple(problems)


def service_of(name: str) -> str | None:
    """``NAMESPACE/NAME`` of the Service whose full DNS name this is; None if it is nothing such."""
    labels = name.removesuffix(f".svc.{CLUSTER_DOMAIN}").split(".")
    if not name.endswith(f".svc.{CLUSTER_DOMAIN}") or len(labels) != 2:  # noqa: PLR2004
        return None
    return f"{labels[1]}/{labels[0]}"


def _flaw(key: str, targets: Mapping[str, str]) -> str:
    chain = [key]
    while (following := service_of(targets[chain[-1]])) in targets:
        assert following is not None  # noqa: S101 - None is no key of targets
        if following in chain:
            way = " → ".join([*chain, following])
            return f"leads round in a circle: {way}"
        chain.append(following)
        if len(chain) > MOST_ALIASES:
            return f"leads through more than {MOST_ALIASES} Services of type ExternalName"
    return ""
