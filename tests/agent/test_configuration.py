"""What Envoy is told at once, and what it is told later."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from troth.agent.configuration import Configuration, ConfigurationKeeper, EnvoyCredentials
from troth.envoy.build import SnapshotKeeper
from troth.envoy.snapshot import LISTENER
from troth.identity.authority import CertificateAuthority
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.identity.svid import X509Svid
from troth.mesh.model import ALL_PORTS, Pod
from troth.mesh.world import World
from troth.policy.model import Mode, PeerAuthentication

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.mesh.model import Ports

TRUST_DOMAIN = TrustDomain.parse("cluster.local")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def pod(uid: str) -> Pod:
    return Pod(
        uid=uid, namespace="shop", name=uid, addresses=(f"10.0.0.{uid}",), captured=True, ready=True
    )


class Node:
    """The keeper of a node with pod 1, and what it has made last."""

    def __init__(self, *, alone: bool = True) -> None:
        self.captured = True
        authority = CertificateAuthority.self_signed(TRUST_DOMAIN, NOW)
        identity = SpiffeId.for_service_account(TRUST_DOMAIN, "shop", "default")
        key = new_key()
        chain = authority.sign(build_csr(key, identity), now=NOW).chain
        svid = X509Svid.assemble(key, chain, authority.trust_bundle, now=NOW)
        self.certified = EnvoyCredentials((svid,), authority.trust_bundle)
        self.uncertified = EnvoyCredentials((), authority.trust_bundle)
        self._keeper = ConfigurationKeeper(SnapshotKeeper(access_log=Path("/run/log")), alone=alone)

    def at(
        self,
        now: float,
        *uids: str,
        mode: Mode = Mode.PERMISSIVE,
        credentials: EnvoyCredentials | None = None,
        lenient: tuple[str, ...] = (),
    ) -> Configuration:
        """What it makes of a mesh of some pods."""
        self._world = World(
            trust_domain=TRUST_DOMAIN,
            pods={uid: replace(pod(uid), captured=self.captured) for uid in uids},
            policies=(PeerAuthentication(namespace="shop", name="default", mode=mode),),
        )
        self._now, self._lenient = now, lenient
        self._credentials = credentials or self.certified
        return self._again()

    def in_force(self, made: Configuration) -> Configuration:
        """What it makes in the end, when Envoy has each step in force."""
        for _ in range(5):
            if not made.goes_on:
                return made
            self._keeper.confirm()
            made = self._again()
        raise AssertionError("it goes on without end")

    def heard(self) -> Configuration:
        """What it makes when other nodes go by the same policies."""
        self._keeper.hear(self._world.policies)
        return self.in_force(self._again())

    @property
    def offers(self) -> Mapping[str, Ports]:
        return self._keeper.offers

    def _again(self) -> Configuration:
        return self._keeper.update(
            self._world,
            netns={"1": "/n/1"},
            lenient=self._lenient,
            service_ranges=(),
            credentials=self._credentials,
            now=self._now,
        )


def version(of: Configuration, listener: str) -> str:
    return of.snapshot.of_type(LISTENER)[listener].version


def test_a_pod_without_a_certificate_is_left_out() -> None:
    node = Node()
    without = node.at(0, "1", credentials=node.uncertified)
    assert not without.ready
    assert set(without.view.local_pods) == {"1"}
    assert set(without.snapshot.of_type(LISTENER)) == {"outbound"}
    assert node.at(0, "1").ready == {"1"}


def test_a_first_change_of_destinations_is_told_at_once_and_the_next_after_a_pause() -> None:
    node = Node()
    first = node.at(10.0, "1", "2")
    assert first.rest_at is None
    second = node.at(10.0, "1", "2", "3")
    assert second.rest_at is not None
    assert second.rest_at > 10.0
    assert version(second, "outbound") == version(first, "outbound")
    third = node.at(second.rest_at, "1", "2", "3")
    assert third.rest_at is None
    assert version(third, "outbound") != version(first, "outbound")


def test_what_is_enforced_waits_for_no_pause() -> None:
    node = Node()
    lax = node.at(10.0, "1", "2")
    strict = node.at(10.0, "1", "2", "3", mode=Mode.STRICT)
    assert strict.rest_at is not None
    assert version(strict, "plain-in|1") != version(lax, "plain-in|1")


def test_what_is_enforced_is_told_before_destinations_that_changed_with_it() -> None:
    node = Node()
    lax = node.at(10.0, "1", "2")
    strict = node.at(20.0, "1", "2", "3", mode=Mode.STRICT)
    assert version(strict, "plain-in|1") != version(lax, "plain-in|1")
    assert version(strict, "outbound") == version(lax, "outbound")
    assert strict.rest_at == 20.0
    later = node.at(strict.rest_at, "1", "2", "3", mode=Mode.STRICT)
    assert later.rest_at is None
    assert version(later, "outbound") != version(lax, "outbound")


def test_a_pods_clients_enter_the_tunnel_before_it_refuses_plaintext() -> None:
    node = Node()
    off = node.in_force(node.at(10.0, "1", mode=Mode.DISABLE))
    entering = node.at(20.0, "1", mode=Mode.STRICT)
    assert (entering.goes_on, entering.is_final) == (True, False)
    assert version(entering, "outbound") != version(off, "outbound")
    assert version(entering, "plain-in|1") == version(off, "plain-in|1")
    closed = node.in_force(entering)
    assert closed.is_final
    assert version(closed, "outbound") == version(entering, "outbound")
    assert version(closed, "plain-in|1") != version(off, "plain-in|1")


def test_a_pods_clients_leave_the_tunnel_after_it_has_begun_to_take_plaintext() -> None:
    node = Node()
    strict = node.in_force(node.at(10.0, "1", mode=Mode.STRICT))
    opening = node.at(20.0, "1", mode=Mode.DISABLE)
    assert (opening.goes_on, opening.is_final) == (True, False)
    assert version(opening, "outbound") == version(strict, "outbound")
    assert version(opening, "plain-in|1") != version(strict, "plain-in|1")
    left = node.in_force(opening)
    assert left.is_final
    assert version(left, "outbound") != version(strict, "outbound")


def test_strict_in_place_of_permissive_waits_for_nothing() -> None:
    node = Node()
    lax = node.in_force(node.at(10.0, "1", mode=Mode.PERMISSIVE))
    strict = node.at(20.0, "1", mode=Mode.STRICT)
    assert strict.is_final
    assert version(strict, "plain-in|1") != version(lax, "plain-in|1")


def test_a_pod_that_waits_for_its_clients_does_not_wait_for_a_pause_between_destinations() -> None:
    node = Node()
    off = node.in_force(node.at(10.0, "1", "2", mode=Mode.DISABLE))
    strict = node.at(10.0, "1", "2", "3", mode=Mode.STRICT)
    assert strict.rest_at is None
    assert version(strict, "outbound") != version(off, "outbound")


def test_an_envoy_that_takes_nothing_over_keeps_a_pod_open_only_for_so_long() -> None:
    node = Node()
    off = node.in_force(node.at(10.0, "1", mode=Mode.DISABLE))
    waiting = node.at(20.0, "1", mode=Mode.STRICT)
    assert waiting.until is not None
    still = node.at(waiting.until - 0.1, "1", mode=Mode.STRICT)
    assert version(still, "plain-in|1") == version(off, "plain-in|1")
    closed = node.at(waiting.until, "1", mode=Mode.STRICT)
    assert version(closed, "plain-in|1") != version(off, "plain-in|1")


def test_a_pod_that_has_joined_takes_plaintext_until_clients_use_its_tunnel() -> None:
    node = Node()
    node.captured = False
    joining = node.in_force(node.at(10.0, "1", mode=Mode.STRICT, lenient=("1",)))
    node.captured = True
    known = node.at(20.0, "1", mode=Mode.STRICT)
    assert version(known, "outbound") != version(joining, "outbound")
    assert version(known, "plain-in|1") == version(joining, "plain-in|1")
    assert version(node.in_force(known), "plain-in|1") != version(joining, "plain-in|1")


def test_pods_of_other_nodes_are_told_of_plaintext_once_it_is_taken() -> None:
    node = Node(alone=False)
    node.in_force(node.at(10.0, "1", mode=Mode.STRICT))
    opening = node.at(20.0, "1", mode=Mode.DISABLE)
    assert node.offers == {}
    node.in_force(opening)
    assert node.offers == {"1": ALL_PORTS}


def test_a_pod_waits_for_clients_on_other_nodes_until_these_have_heard() -> None:
    node = Node(alone=False)
    off = node.in_force(node.at(10.0, "1", mode=Mode.DISABLE))
    waiting = node.in_force(node.at(20.0, "1", mode=Mode.STRICT))
    assert waiting.waiting == {"1"}
    assert not waiting.is_final
    assert version(waiting, "plain-in|1") == version(off, "plain-in|1")
    assert node.offers == {}
    closed = node.heard()
    assert closed.is_final
    assert version(closed, "plain-in|1") != version(off, "plain-in|1")
