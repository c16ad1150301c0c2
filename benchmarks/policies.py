"""Many workloads and policies, always the same ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from troth.policy.model import Mode, PeerAuthentication

ROOT = "istio-system"
NAMESPACE_SIZE = 100
"""Workloads in a namespace."""
_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
_MODES = (Mode.STRICT, Mode.PERMISSIVE, Mode.DISABLE, Mode.UNSET)


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy decides over."""

    namespace: str
    labels: dict[str, str]
    ports: tuple[int, ...] = (8080, 9090)


def workloads(count: int) -> list[Workload]:
    """Workloads in namespaces of a hundred each, ten pods to an app."""
    return [
        Workload(
            namespace=f"ns-{number // NAMESPACE_SIZE}",
            labels={
                "app": f"app-{number % NAMESPACE_SIZE // 10}",
                "version": f"v{number % 3}",
                "pod-template-hash": f"{number * 7919 % 65536:x}",
            },
        )
        for number in range(count)
    ]


def policies(count: int, *, namespaces: int) -> list[PeerAuthentication]:
    """Policies as meshes have them: one for all, one for each namespace, the rest for workloads."""
    made = [_policy(ROOT, "default", 0)]
    for number in range(1, count):
        namespace = f"ns-{number % namespaces}"
        if number <= namespaces:
            made.append(_policy(namespace, "default", number))
            continue
        rank = number // namespaces
        made.append(
            msgspec.structs.replace(
                _policy(namespace, f"app-{rank}", number),
                selector={"app": f"app-{rank % 10}"},
                port_modes={9090: _MODES[(number + 1) % len(_MODES)]},
            )
        )
    return made


def _policy(namespace: str, name: str, number: int) -> PeerAuthentication:
    return PeerAuthentication(
        namespace=namespace,
        name=name,
        mode=_MODES[number % len(_MODES)],
        created=_BEGINNING + timedelta(seconds=number),
    )
