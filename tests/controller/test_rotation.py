"""What people are told of the root's rotation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from troth.cluster.contract import NodeReport
from troth.controller.keyring import PHASE_ANNOTATION, ROTATE_ANNOTATION, SINCE_ANNOTATION, Phase
from troth.controller.rotation import RotationState, rotation_state
from troth.errors import InputError
from troth.identity.authority import CertificateAuthority
from troth.identity.profile import root_fingerprint
from troth.identity.spiffe import TrustDomain

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SINCE = {SINCE_ANNOTATION: "2026-01-01T11:00:00Z"}
DOMAIN = TrustDomain.parse("cluster.local")


def new_root() -> bytes:
    (pem,) = CertificateAuthority.self_signed(DOMAIN, now=NOW).trust_bundle.certificates
    return pem


OLD, NEW = new_root(), new_root()
OLD_NAME, NEW_NAME = root_fingerprint(OLD), root_fingerprint(NEW)


def state(
    phase: str, *roots: bytes, signs: str, reports: Mapping[str, NodeReport | None] | None = None
) -> RotationState:
    return rotation_state(
        {PHASE_ANNOTATION: phase, **SINCE},
        [x509.load_pem_x509_certificate(root) for root in roots],
        signs,
        reports or {},
        now=NOW,
    )


def report(*, roots: set[str] = set(), issuers: set[str] = set()) -> NodeReport:  # noqa: B006 - read only
    return NodeReport(policies="", roots=frozenset(roots), issuers=frozenset(issuers))


def test_without_any_rotation_it_is_at_rest() -> None:
    found = rotation_state({}, [], "", {}, now=NOW)
    assert found.at_rest
    assert (found.phase, found.since, found.waiting_for) == (Phase.STABLE, None, ())


def test_one_that_is_asked_for_and_has_not_begun_is_no_rest() -> None:
    found = rotation_state({ROTATE_ANNOTATION: "now"}, [], "", {}, now=NOW)
    assert found.requested
    assert not found.at_rest


def test_the_root_that_signs_is_marked() -> None:
    found = state("distributing", OLD, NEW, signs=OLD_NAME)
    assert [(root.fingerprint, root.signs) for root in found.roots] == [
        (OLD_NAME, True),
        (NEW_NAME, False),
    ]
    assert found.roots[0].not_after > NOW


def test_while_distributing_it_waits_for_nodes_that_lack_the_new_root() -> None:
    reports = {
        "a": report(roots={OLD_NAME}),
        "b": report(roots={OLD_NAME, NEW_NAME}),
        "c": None,
    }
    found = state("distributing", OLD, NEW, signs=OLD_NAME, reports=reports)
    assert found.waiting_for == ("a to believe in the new root", "c to believe in the new root")
    assert not found.at_rest


def test_once_switched_it_waits_for_nodes_that_use_the_old_root() -> None:
    reports = {"a": report(issuers={OLD_NAME, NEW_NAME}), "b": report(issuers={NEW_NAME})}
    found = state("switched", NEW, OLD, signs=NEW_NAME, reports=reports)
    assert found.waiting_for == ("a to renew its certificates",)


def test_a_phase_that_is_none_is_told() -> None:
    with pytest.raises(InputError, match="write one of stable, distributing, switched"):
        state("halfway", OLD, signs=OLD_NAME)
