"""The authority's Secret, and the phases in which its root is replaced."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.controller.conftest import NOW, TRUST_DOMAIN, WEB

from troth.cluster.contract import NodeReport
from troth.controller.keyring import (
    MADE_ANNOTATION,
    PHASE_ANNOTATION,
    ROTATE_ANNOTATION,
    SINCE_ANNOTATION,
    Content,
    Keyring,
    Phase,
    awaited,
    begin,
    first_content,
    read_keyring,
    retire,
    signing_root,
    switch,
)
from troth.errors import InputError
from troth.identity.authority import CertificateAuthority
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.profile import root_fingerprint, validate_svid_chain
from troth.identity.spiffe import TrustDomain

if TYPE_CHECKING:
    from troth.identity.bundle import TrustBundle

SUBJECT = "Secret troth-system/troth-ca"


def read(content: Content) -> Keyring:
    return read_keyring(content, trust_domain=TRUST_DOMAIN, now=NOW, subject=SUBJECT)


def given(authority: CertificateAuthority, prefix: str = "") -> dict[str, bytes]:
    return {
        f"{prefix}ca-cert.pem": authority.certificate_pem,
        f"{prefix}ca-key.pem": authority.private_key.reveal(),
        f"{prefix}root-cert.pem": authority.trust_bundle.pem,
    }


def begun(content: Content) -> Content:
    return begin(content, trust_domain=TRUST_DOMAIN, now=NOW, subject=SUBJECT)


def signed(keyring: Keyring) -> bytes:
    return keyring.signing.sign(build_csr(new_key(), WEB), now=NOW).chain


def believes(keyring: Keyring, chain: bytes) -> bool:
    try:
        validate_svid_chain(chain, keyring.bundle, now=NOW, expected=WEB)
    except InputError:
        return False
    return True


def roots(bundle: TrustBundle) -> frozenset[str]:
    return frozenset(map(root_fingerprint, bundle.certificates))


def test_a_first_root_signs_and_is_all_that_is_believed() -> None:
    content = first_content(TRUST_DOMAIN, NOW)
    keyring = read(content)
    assert keyring.phase is Phase.STABLE
    assert believes(keyring, signed(keyring))
    assert len(keyring.bundle.certificates) == 1
    assert content.annotations == {MADE_ANNOTATION: "controller"}


def test_the_secrets_content_does_not_show_itself() -> None:
    assert "PRIVATE" not in repr(first_content(TRUST_DOMAIN, NOW))


def test_an_authority_given_as_for_istio_is_taken() -> None:
    authority = CertificateAuthority.self_signed(TRUST_DOMAIN, now=NOW)
    keyring = read(Content({**given(authority), "cert-chain.pem": b""}, {}))
    assert keyring.bundle == authority.trust_bundle


def test_what_signs_before_and_after_is_believed_while_both_are_in_use() -> None:
    contents = [first_content(TRUST_DOMAIN, NOW)]
    contents.append(begun(contents[0]))
    contents.append(switch(contents[1], now=NOW))
    contents.append(retire(contents[2], now=NOW))
    rings = [read(content) for content in contents]
    assert [ring.phase for ring in rings] == ["stable", "distributing", "switched", "stable"]
    old, new = signed(rings[0]), signed(rings[3])
    assert [(believes(ring, old), believes(ring, new)) for ring in rings] == [
        (True, False),
        (True, True),
        (True, True),
        (False, True),
    ]
    assert signing_root(rings[0]) == signing_root(rings[1])
    assert signing_root(rings[2]) == signing_root(rings[3]) != signing_root(rings[0])


def test_the_old_key_is_gone_once_the_new_one_signs() -> None:
    content = first_content(TRUST_DOMAIN, NOW)
    old_key = content.data["ca-key.pem"]
    assert old_key not in switch(begun(content), now=NOW).data.values()


def test_the_request_for_a_rotation_is_fulfilled_by_its_beginning() -> None:
    content = first_content(TRUST_DOMAIN, NOW)
    content.annotations[ROTATE_ANNOTATION] = "2026-03-01"
    assert read(content).wants_rotation
    after = begun(content)
    assert not read(after).wants_rotation
    assert after.annotations[SINCE_ANNOTATION] == "2026-03-01T12:00:00Z"


def test_the_users_next_authority_is_taken_for_a_rotation() -> None:
    first, second = (CertificateAuthority.self_signed(TRUST_DOMAIN, now=NOW) for _ in range(2))
    content = Content({**given(first), **given(second, "next-")}, {})
    assert read(content).bundle == first.trust_bundle  # not before it is asked for
    after = read(begun(content))
    assert after.arriving == roots(second.trust_bundle)
    assert read(switch(begun(content), now=NOW)).signing.trust_bundle == second.trust_bundle


def test_a_users_authority_is_never_replaced_by_one_of_the_controllers_own() -> None:
    content = Content(given(CertificateAuthority.self_signed(TRUST_DOMAIN, now=NOW)), {})
    with pytest.raises(InputError) as caught:
        begun(content)
    assert str(caught.value) == (
        "Secret troth-system/troth-ca: data[next-ca-cert.pem]: is missing, and the present "
        "authority is not the controller's own; put its successor beside it, as "
        "next-ca-cert.pem, next-ca-key.pem, next-cert-chain.pem, next-root-cert.pem"
    )


def test_an_intermediate_renewed_below_the_same_root_brings_no_new_root() -> None:
    content = Content(given(CertificateAuthority.self_signed(TRUST_DOMAIN, now=NOW)), {})
    content.data |= {f"next-{key}": value for key, value in content.data.items()}
    ring = read(begun(content))
    assert ring.arriving == frozenset()
    assert len(ring.bundle.certificates) == 1


@pytest.mark.parametrize(
    ("data", "annotations", "words"),
    [
        pytest.param({"ca-key.pem": None}, {}, "data[ca-key.pem]: is missing", id="no key"),
        pytest.param(
            {"ca-cert.pem": None, "ca-key.pem": b""}, {}, "data[ca-cert.pem]: is missing", id="both"
        ),
        pytest.param(
            {"ca-key.pem": b"x"},
            {},
            "data[ca-key.pem]: is not an unencrypted private",
            id="bad key",
        ),
        pytest.param({"root-cert.pem": b"x"}, {}, "data[root-cert.pem]: ", id="bad root"),
        pytest.param({}, {PHASE_ANNOTATION: "lost"}, 'is "lost"; write one of', id="phase"),
        pytest.param({}, {SINCE_ANNOTATION: "today"}, 'is "today"', id="time"),
        pytest.param({}, {SINCE_ANNOTATION: "2026-03-01T12:00:00"}, "time zone", id="time zone"),
        pytest.param(
            {}, {PHASE_ANNOTATION: "distributing"}, "data[next-ca-cert.pem]", id="no next"
        ),
        pytest.param(
            {}, {PHASE_ANNOTATION: "switched"}, "data[previous-root-cert.pem]", id="no previous"
        ),
    ],
)
def test_a_secret_that_will_not_do_is_refused_by_its_key(
    data: dict[str, bytes | None], annotations: dict[str, str], words: str
) -> None:
    content = first_content(TRUST_DOMAIN, NOW)
    merged = {**content.data, **data}
    broken = Content(
        {key: value for key, value in merged.items() if value is not None}, annotations
    )
    with pytest.raises(InputError) as caught:
        read(broken)
    assert words in str(caught.value)
    assert "PRIVATE" not in str(caught.value)


def test_an_authority_of_another_trust_domain_is_refused() -> None:
    foreign = TrustDomain.parse("elsewhere.test")
    with pytest.raises(InputError, match="is the CA of"):
        read(first_content(foreign, NOW))


def stage(phase: Phase) -> tuple[Keyring, str, str]:
    """A keyring in a phase, and its old and new root."""
    first = first_content(TRUST_DOMAIN, NOW)
    distributing = begun(first)
    old = signing_root(read(first))
    new = signing_root(read(switch(distributing, now=NOW)))
    content = {
        Phase.STABLE: first,
        Phase.DISTRIBUTING: distributing,
        Phase.SWITCHED: switch(distributing, now=NOW),
    }[phase]
    return read(content), old, new


def test_signing_is_not_switched_before_every_node_believes_in_the_new_root() -> None:
    ring, old, new = stage(Phase.DISTRIBUTING)
    both = NodeReport(policies="", roots=frozenset({old, new}))
    late = NodeReport(policies="", roots=frozenset({old}))
    assert awaited(ring, {"a": both, "b": both}, now=NOW) == ()
    assert awaited(ring, {"a": both, "b": late}, now=NOW) == ("b to believe in the new root",)
    assert awaited(ring, {"a": None, "b": both}, now=NOW) == ("a to believe in the new root",)
    assert awaited(ring, {}, now=NOW) == ("the first node's report",)


def test_nodes_are_waited_for_however_long_while_the_new_root_is_distributed() -> None:
    ring, old, _ = stage(Phase.DISTRIBUTING)
    late = NodeReport(policies="", roots=frozenset({old}))
    assert awaited(ring, {"a": late}, now=NOW + timedelta(days=365))


def test_the_old_root_is_not_retired_while_a_node_uses_its_certificates() -> None:
    ring, old, new = stage(Phase.SWITCHED)
    renewed = NodeReport(policies="", issuers=frozenset({new}))
    late = NodeReport(policies="", issuers=frozenset({old, new}))
    assert awaited(ring, {"a": renewed}, now=NOW) == ()
    assert awaited(ring, {"a": renewed, "b": late}, now=NOW) == ("b to renew its certificates",)
    assert awaited(ring, {"a": None}, now=NOW) == ("a to renew its certificates",)
    assert awaited(ring, {}, now=NOW) == ("the first node's report",)


@pytest.mark.parametrize(("hours", "waits"), [(24, True), (25, False)])
def test_the_old_root_is_retired_when_all_it_signed_has_expired(*, hours: int, waits: bool) -> None:
    ring, old, _ = stage(Phase.SWITCHED)
    late = NodeReport(policies="", issuers=frozenset({old}))
    assert bool(awaited(ring, {"a": late}, now=NOW + timedelta(hours=hours))) is waits


def test_nothing_is_awaited_without_a_rotation() -> None:
    ring, _, _ = stage(Phase.STABLE)
    assert awaited(ring, {}, now=NOW) == ()
