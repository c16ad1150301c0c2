from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import msgspec
import pytest
from tests.samples import connection

from troth.agent.agent import NodeAgent
from troth.agent.certificates import Signed
from troth.agent.proxy import NodePaths
from troth.envoy.delta import Nack
from troth.envoy.snapshot import LISTENER
from troth.identity.authority import CertificateAuthority
from troth.identity.spiffe import TrustDomain
from troth.mesh.model import Pod
from troth.mesh.ports import PORT_SETS
from troth.mesh.world import World
from troth.policy.model import Mode, PeerAuthentication
from troth.traffic.connection import Party

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from troth.envoy.snapshot import Snapshot
    from troth.identity.bundle import TrustBundle
    from troth.identity.rotation import SigningRequest

TRUST_DOMAIN = TrustDomain.parse("cluster.local")


class Signer:
    """Signs for those it likes, and keeps silent to others."""

    def __init__(self, *likes: str) -> None:
        self._authority = CertificateAuthority.self_signed(TRUST_DOMAIN, now=datetime.now(UTC))
        self.bundle: TrustBundle = self._authority.trust_bundle
        self._likes = likes

    async def sign(self, request: SigningRequest) -> Signed:
        if request.spiffe_id.service_account not in self._likes:
            await asyncio.Event().wait()
        signed = self._authority.sign(
            request.csr, now=datetime.now(UTC), expected=request.spiffe_id
        )
        return Signed(signed.chain, self.bundle)


class NoSigner:
    """A signer that nobody asks."""

    def __init__(self) -> None:
        authority = CertificateAuthority.self_signed(TRUST_DOMAIN, now=datetime.now(UTC))
        self.bundle: TrustBundle = authority.trust_bundle

    async def sign(self, request: SigningRequest) -> Signed:
        raise AssertionError(request)


class ObligingEnvoy:
    """Stands for the ADS server of an Envoy that takes everything at once."""

    nacks = ()

    def __init__(self) -> None:
        self.listeners: dict[str, str] = {}
        self.updated = asyncio.Event()

    def update(self, snapshot: Snapshot) -> None:
        """Take it."""
        self.listeners = {name: each.version for name, each in snapshot.of_type(LISTENER).items()}
        self.updated.set()

    async def told(self, listener: str, *, former: str | None = None) -> str:
        """Wait until it has a listener in another version than the former one."""
        while (version := self.listeners.get(listener)) in {None, former}:
            self.updated.clear()
            await self.updated.wait()
        assert version is not None
        return version

    async def settled(self) -> None:
        """It is."""

    def status(self) -> ObligingEnvoy:
        return self


@pytest.fixture
def make_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., NodeAgent]:
    monkeypatch.setattr("troth.agent.proxy.find_envoy", lambda: tmp_path)

    def make(
        on_change: Callable[[], None] = lambda: None,
        signer: Signer | None = None,
        *,
        active: bool = True,
        host: Path | None = None,
    ) -> NodeAgent:
        made = NodeAgent(
            node_name="node",
            paths=NodePaths(
                ads=tmp_path,
                admin=tmp_path,
                worker=tmp_path,
                bootstrap=tmp_path,
                access_log=tmp_path,
                journal=tmp_path / "events",
            ),
            signer=signer or NoSigner(),
            service_ranges=(),
            on_change=on_change,
            active=active,
            host=host,
        )
        monkeypatch.setattr(made._proxy, "ads", ObligingEnvoy())
        return made

    return make


async def test_a_world_that_came_into_force_is_told_also_when_no_pod_was_captured_for_it(
    make_agent: Callable[..., NodeAgent],
) -> None:
    settled: list[bool] = []
    agent: NodeAgent = make_agent(lambda: settled.append(agent.is_settled))
    for ready in (False, True):
        pod = Pod(uid="1", namespace="shop", name="web", ready=ready)
        agent.update(World(trust_domain=TRUST_DOMAIN, pods={"1": pod}), {})
        assert not agent.is_settled
        assert agent._world is not None
        await agent._reconcile(agent._world, {}, agent._generation)
    assert settled == [True, True]


async def test_the_same_world_again_is_no_news(make_agent: Callable[..., NodeAgent]) -> None:
    told: list[None] = []
    agent = make_agent(lambda: told.append(None))
    world = World(trust_domain=TRUST_DOMAIN)
    agent.update(world, {})
    await agent._reconcile(world, {}, agent._generation)
    agent.update(world, {})
    await agent._reconcile(world, {}, agent._generation)
    assert len(told) == 1


async def test_other_roots_are_told_once_envoy_believes_in_them(
    make_agent: Callable[..., NodeAgent],
) -> None:
    believed: list[TrustBundle] = []

    def note() -> None:
        assert agent.credentials is not None
        believed.append(agent.credentials.bundle)

    agent = make_agent(note)
    signer = agent.certificates._signer
    assert isinstance(signer, NoSigner)
    world = World(trust_domain=TRUST_DOMAIN)
    agent.update(world, {})
    assert agent.credentials is None
    await agent._reconcile(world, {}, agent._generation)
    before = signer.bundle
    signer.bundle = before.merge(NoSigner().bundle)
    agent.follow_roots()
    assert believed == [before]
    await agent._reconcile(world, {}, agent._generation)
    assert believed == [before, signer.bundle]


async def test_pods_exempt_no_probes_where_the_nodes_rules_are_not_in_place(
    make_agent: Callable[..., NodeAgent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    agent: NodeAgent = make_agent(lambda: told.append(agent.trouble), host=tmp_path / "none")
    exempt: list[bool] = []

    async def act(*_: object, probes: bool) -> bool:
        exempt.append(probes)
        return False

    monkeypatch.setattr(agent._capturer, "act", act)
    monkeypatch.setattr(type(agent._pods), "wanted", frozenset({"web"}))
    world = World(trust_domain=TRUST_DOMAIN)
    agent.update(world, {})
    await agent._reconcile(world, {}, agent._generation)
    assert exempt == [False]
    assert "probes of STRICT pods fail" in told[-1]


async def test_only_the_agent_in_charge_keeps_the_journal(
    make_agent: Callable[..., NodeAgent],
) -> None:
    old, new = make_agent(), make_agent(active=False)
    old.note(connection(source=Party(address="10.0.0.1", port=1)))
    joining = await old.step_back(lambda _: None)
    new.take_charge(joining)
    new.note(connection(source=Party(address="10.0.0.1", port=2)))
    assert [each.source.port for each in new.connections] == [1, 2]
    assert (old.is_active, new.is_active) == (False, True)


async def test_an_agent_that_stands_by_is_prepared_unless_a_captured_pod_is_not_served(
    make_agent: Callable[..., NodeAgent], tmp_path: Path
) -> None:
    agent = make_agent(active=False)
    for captured in (False, True):
        pod = Pod(uid="1", namespace="shop", name="web", ready=True, captured=captured)
        agent.update(World(trust_domain=TRUST_DOMAIN, pods={"1": pod}), {"1": tmp_path})
        assert not agent.is_prepared
        assert agent._world is not None
        await agent._reconcile(agent._world, {}, agent._generation)
        assert agent.is_prepared is not captured
        assert not agent.captured


async def test_an_agent_does_not_stand_by_for_ever_because_of_a_pod_that_envoy_refuses(
    make_agent: Callable[..., NodeAgent], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agent = make_agent(signer=Signer("web"), active=False)
    taken = Nack(type_url=LISTENER, name="plain-in|1", version="", message="port in use")
    monkeypatch.setattr(agent._proxy.ads, "nacks", (taken,))
    held = msgspec.structs.replace(pod("1", "web"), captured=True)
    agent.update(World(trust_domain=TRUST_DOMAIN, pods={"1": held}), {"1": tmp_path})
    assert agent._world is not None
    await agent._reconcile(agent._world, agent._wanted, agent._generation)
    assert not agent.is_prepared
    monkeypatch.setattr("troth.agent.agent._REFUSAL_SECONDS", 0)
    await agent._reconcile(agent._world, agent._wanted, agent._generation)
    assert agent.is_prepared


async def test_an_agent_that_takes_charge_is_not_settled_before_it_has_acted(
    make_agent: Callable[..., NodeAgent],
) -> None:
    agent = make_agent(active=False)
    world = World(trust_domain=TRUST_DOMAIN)
    agent.update(world, {})
    await agent._reconcile(world, {}, agent._generation)
    assert agent.is_settled
    agent.take_charge()
    assert not agent.is_settled
    await agent._reconcile(world, {}, agent._generation)
    assert agent.is_settled


def pod(uid: str, account: str) -> Pod:
    return Pod(
        uid=uid, namespace="shop", name=uid, service_account=account, addresses=(f"10.0.0.{uid}",)
    )


def strict(*pods: Pod) -> World:
    """A world in which plaintext is forbidden."""
    policy = PeerAuthentication(namespace="shop", name="default", mode=Mode.STRICT)
    return World(
        trust_domain=TRUST_DOMAIN, pods={each.uid: each for each in pods}, policies=(policy,)
    )


@contextlib.asynccontextmanager
async def working(agent: NodeAgent) -> AsyncIterator[ObligingEnvoy]:
    """What `NodeAgent.run` does, but for Envoy."""
    tasks = [
        asyncio.create_task(agent.certificates.run()),
        asyncio.create_task(agent._reconcile_forever()),
    ]
    try:
        yield cast("ObligingEnvoy", agent._proxy.ads)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_policy_does_not_wait_for_a_new_pods_certificate(
    make_agent: Callable[..., NodeAgent], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("troth.agent.certificates.PATIENCE_SECONDS", 3600)
    agent = make_agent(lambda: None, Signer("web"))
    monkeypatch.setattr(agent._capturer, "act", nothing_to_do)
    wanted = {"1": tmp_path}
    async with working(agent) as envoy:
        web, new = pod("1", "web"), pod("2", "api")
        agent.update(World(trust_domain=TRUST_DOMAIN, pods={"1": web}), wanted)
        lax = await envoy.told("plain-in|1")
        wanted["2"] = tmp_path
        agent.update(World(trust_domain=TRUST_DOMAIN, pods={"1": web, "2": new}), wanted)
        await asyncio.sleep(0)
        agent.update(strict(web, new), wanted)
        await envoy.told("plain-in|1", former=lax)
        assert not agent.is_settled


async def test_a_pod_whose_certificate_was_there_before_it_is_served_all_the_same(
    make_agent: Callable[..., NodeAgent], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agent = make_agent(lambda: None, Signer("web"))
    monkeypatch.setattr(agent._capturer, "act", nothing_to_do)
    async with working(agent) as envoy:
        web = pod("1", "web")
        agent.certificates.expect({web.spiffe_id(TRUST_DOMAIN)})
        while not agent.certificates.current():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        agent.update(World(trust_domain=TRUST_DOMAIN, pods={"1": web}), {"1": tmp_path})
        await envoy.told("plain-in|1")


async def test_a_policy_does_not_wait_for_pods_that_are_being_captured(
    make_agent: Callable[..., NodeAgent], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun, end = asyncio.Event(), asyncio.Event()

    async def act(*_: object, **__: object) -> bool:
        begun.set()
        await end.wait()
        return False

    agent = make_agent(lambda: None, Signer("web"))
    monkeypatch.setattr(agent._capturer, "act", act)
    async with working(agent) as envoy:
        web = pod("1", "web")
        agent.update(World(trust_domain=TRUST_DOMAIN, pods={"1": web}), {"1": tmp_path})
        lax = await envoy.told("plain-in|1")
        await begun.wait()
        agent.update(strict(web), {"1": tmp_path})
        await envoy.told("plain-in|1", former=lax)
        assert not agent.is_settled
        end.set()
        await agent.enforced()


async def nothing_to_do(*_: object, **__: object) -> bool:
    return False


async def test_an_announced_pod_is_secured_when_it_is_captured_and_others_are_told(
    make_agent: Callable[..., NodeAgent], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    captured: list[Path] = []

    async def capture(netns: Path, *_: object, **__: object) -> None:
        captured.append(netns)

    monkeypatch.setattr("troth.agent.capturer.capture", capture)
    monkeypatch.setattr("troth.agent.capturer.listening_ports", lambda _: frozenset(PORT_SETS[0]))
    changed = asyncio.Event()
    agent = make_agent(changed.set, Signer("web"))
    there = {"1": tmp_path}
    async with asyncio.timeout(60), working(agent):
        # As the API server has a pod whose sandbox was made again.
        web = msgspec.structs.replace(pod("1", "web"), ready=True)
        agent.update(strict(web), there, there)
        while "1" not in agent.captured:
            await changed.wait()
            changed.clear()
        assert captured == [tmp_path]
        assert not agent.joining
        assert not agent.secures("1", tmp_path)
        agent.update(strict(msgspec.structs.replace(web, captured=True)), there, there)
        while not agent.secures("1", tmp_path):
            await changed.wait()
            changed.clear()
        assert not agent.secures("1", tmp_path / "another")
