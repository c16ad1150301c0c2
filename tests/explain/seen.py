"""Connections in a line each, and the totals of them.

``SOURCE > DESTINATION:PORT OUTCOME REASON``; the ends are workloads (``NAMESPACE/NAME``) or
addresses, and the reason can be left out.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from tests import samples

from troth.explain.noted import Observations
from troth.explain.remedies import note
from troth.identity.spiffe import TrustDomain
from troth.mesh.model import ContainerPort, Namespace, Pod, Service
from troth.mesh.world import World
from troth.policy.index import PolicyIndex
from troth.policy.model import Mode, PeerAuthentication
from troth.traffic.connection import Connection, Outcome, Party, Reason, Side
from troth.traffic.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.traffic.tally import Total

NOON = datetime(2026, 3, 1, 12, 0, 3, tzinfo=UTC)
ADDRESSES = {
    "finance/web": "10.0.1.1",
    "finance/payments": "10.0.1.2",
    "finance/outsider": "10.0.1.3",
    "legacy/cron": "10.0.3.4",
}


def pod(name: str, *ports: int, captured: bool = True, labels: dict[str, str] | None = None) -> Pod:
    namespace, _, own = name.partition("/")
    return Pod(
        uid=name,
        namespace=namespace,
        name=f"{own}-0",
        owner=own,
        labels=labels if labels is not None else {"app": own},
        service_account=own,
        addresses=(ADDRESSES.get(name, f"10.0.9.{len(name)}"),),
        ports=tuple(ContainerPort(number=port) for port in ports),
        captured=captured,
        ready=True,
    )


def world(
    *policies: PeerAuthentication, pods: Iterable[Pod] = (), services: Iterable[Service] = ()
) -> World:
    known = list(pods) or [
        pod("finance/web", 8080),
        pod("finance/payments", 8080, 9090),
        pod(
            "finance/outsider",
            captured=False,
            labels={"app": "outsider", "troth.dev/mesh": "disabled"},
        ),
        pod("legacy/cron", captured=False),
    ]
    return World(
        trust_domain=TrustDomain.parse("cluster.local"),
        namespaces={
            "finance": Namespace(name="finance", labels={"troth.dev/mesh": "enabled"}),
            "shop": Namespace(name="shop", labels={"troth.dev/mesh": "enabled"}),
            "istio-system": Namespace(name="istio-system", labels={"troth.dev/mesh": "enabled"}),
            "legacy": Namespace(name="legacy"),
        },
        pods={each.uid: each for each in known},
        services={str(each): each for each in services},
        policies=policies,
    )


def policy(name: str, mode: Mode, *, port: int = 0, **selector: str) -> PeerAuthentication:
    namespace, _, own = name.partition("/")
    return PeerAuthentication(
        namespace=namespace,
        name=own,
        selector=selector,
        mode=Mode.UNSET if port else mode,
        port_modes={port: mode} if port else {},
    )


def connection(
    line: str,
    among: World,
    *,
    time: datetime = NOON,
    side: Side = Side.SERVER,
    detail: str = "",
    claimed_peer: str | None = None,
) -> Connection:
    """The connection that a line stands for, as seen with a world."""
    source, _, destination, outcome, *reason = line.split()
    server, _, port = destination.rpartition(":")
    to = _party(server, int(port), among)
    found = next((each for each in among.pods.values() if each.workload == server), None)
    mode, decided_by = None, None
    if found is not None and found.captured:
        index = PolicyIndex(among.policies, root_namespace=among.root_namespace)
        decision = index.decide(found.namespace, found.labels, [int(port)])
        mode, decided_by = decision.mode_of(int(port)), decision.decider_of(int(port))
    return samples.connection(
        time=time,
        outcome=Outcome(outcome),
        reason=Reason(*reason) if reason else Reason.NONE,
        detail=detail,
        side=side,
        source=_party(source, 40000, among),
        destination=to,
        claimed_peer=claimed_peer,
        mode=mode,
        decided_by=decided_by,
    )


def totals(connections: Iterable[Connection]) -> tuple[Total, ...]:
    tally = Tally(NOON - timedelta(hours=2))
    for each in connections:
        tally.add(each)
    return tally.totals()


def observed(connections: Iterable[Connection], now: World, **more: Any) -> Observations:
    """What an agent says of these connections; ``more`` are other fields."""
    noted = tuple(note(totals(connections), now))
    return Observations(**{"complete_since": NOON, "noted": noted, "world": now, **more})


def at(seconds: float, each: Connection) -> Connection:
    """The same connection later."""
    return msgspec.structs.replace(each, time=NOON + timedelta(seconds=seconds))


def _party(name: str, port: int, among: World) -> Party:
    found = next((each for each in among.pods.values() if each.workload == name), None)
    if found is None:
        known = "/" in name
        return Party(
            address="10.0.8.8" if known else name, port=port, workload=name if known else None
        )
    return Party(address=found.addresses[0], port=port, pod=str(found), workload=name)
