"""Which certificate signing requests are signed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from lightkube.models.certificates_v1 import (
    CertificateSigningRequestCondition,
    CertificateSigningRequestStatus,
)
from tests.controller.conftest import AGENT, TRUST_DOMAIN, WEB, pod, signing_request

from troth.cluster.contract import NODE_NAME_ATTRIBUTE
from troth.controller.signing import (
    Claim,
    Denial,
    SigningRules,
    awaits_answer,
    examine,
    judge,
)
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.spiffe import SpiffeId, TrustDomain

RULES = SigningRules(trust_domain=TRUST_DOMAIN)


def claim() -> Claim:
    verdict = examine(signing_request(), RULES)
    assert isinstance(verdict, Claim)
    return verdict


def forged(*extensions: x509.ExtensionType, key: Any = None, ids: tuple[str, ...] = ()) -> bytes:
    """A request as build_csr makes it, with more in it."""
    uris = [x509.UniformResourceIdentifier(each) for each in ids or (str(WEB),)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    csr = builder.sign(key or new_key(), hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM)


def asking_for(text: str) -> bytes:
    return build_csr(new_key(), SpiffeId.parse(text))


def test_a_request_in_order_becomes_a_claim_on_the_agents_own_node() -> None:
    verdict = claim()
    assert (verdict.node, verdict.namespace, verdict.service_account) == ("node-1", "shop", "web")
    assert verdict.request.spiffe_id == WEB
    assert verdict.lifetime == timedelta(hours=12)


def test_a_claim_is_granted_when_the_node_has_a_pod_of_the_service_account() -> None:
    assert judge(claim(), [pod(serviceAccountName="other"), pod()]) is None


def test_a_pod_that_names_no_service_account_is_not_taken_for_the_default_ones() -> None:
    # Only a static pod's mirror names none, and a kubelet makes these in any namespace.
    identity = SpiffeId.for_service_account(WEB.trust_domain, "shop", "default")
    verdict = examine(signing_request(build_csr(new_key(), identity)), RULES)
    assert isinstance(verdict, Claim)
    assert judge(verdict, [pod(serviceAccountName=None)]) is not None
    assert judge(verdict, [pod(serviceAccountName="default")]) is None


@pytest.mark.parametrize("seconds", [600, 3600, 86400])
def test_the_lifetime_is_what_was_asked_for(seconds: int) -> None:
    verdict = examine(signing_request(expirationSeconds=seconds), RULES)
    assert isinstance(verdict, Claim)
    assert verdict.lifetime == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param([], id="no pod"),
        pytest.param([pod(nodeName="node-2")], id="on another node"),
        pytest.param([pod(nodeName=None)], id="not bound to a node yet"),
        pytest.param([pod(serviceAccountName="api")], id="of another service account"),
        pytest.param([pod(serviceAccountName=None)], id="of no service account"),
        pytest.param(
            [pod(annotations={"kubernetes.io/config.mirror": "x"})], id="a static pod's mirror"
        ),
        pytest.param([pod(namespace="bank")], id="in another namespace"),
        pytest.param([pod(hostNetwork=True)], id="in the host's network"),
        pytest.param([pod(phase="Succeeded")], id="completed"),
        pytest.param([pod(phase="Failed")], id="failed"),
    ],
)
def test_a_claim_without_a_pod_of_its_own_is_denied(pods: list[Any]) -> None:
    refusal = judge(claim(), pods)
    assert refusal is not None
    assert refusal.reason == "NoPodOnNode"
    assert "node node-1 has no pod of the service account shop/web" in refusal.message


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        pytest.param(
            {"username": "mallory"}, "UnknownRequester", '"mallory" is not a node agent', id="user"
        ),
        pytest.param(
            {"username": None}, "UnknownRequester", "null is not a node agent", id="nobody"
        ),
        pytest.param(
            {"username": AGENT.replace("troth-system", "shop")},
            "UnknownRequester",
            "is not a node agent",
            id="same service account name elsewhere",
        ),
        pytest.param(
            {"groups": ["system:authenticated"]},
            "UnknownRequester",
            "is not a node agent",
            id="the agent's name from another authenticator",
        ),
        pytest.param({"extra": None}, "UnknownNode", "names 0 nodes", id="unbound token"),
        pytest.param(
            {"extra": {NODE_NAME_ATTRIBUTE: ["node-1", "node-2"]}},
            "UnknownNode",
            "names 2 nodes",
            id="two nodes",
        ),
        pytest.param(
            {"extra": {NODE_NAME_ATTRIBUTE: [""]}}, "UnknownNode", "projects", id="empty node"
        ),
        pytest.param(
            {"usages": ["digital signature", "server auth", "client auth", "cert sign"]},
            "RequestRefused",
            '"cert sign"; ask for digital signature, server auth, client auth',
            id="usage too many",
        ),
        pytest.param(
            {"usages": ["client auth"]}, "RequestRefused", "spec.usages", id="usage too few"
        ),
        pytest.param({"usages": None}, "RequestRefused", "is empty", id="no usages"),
        pytest.param(
            {"expirationSeconds": 599}, "RequestRefused", "is 599; ask for 600 to 86400", id="short"
        ),
        pytest.param({"expirationSeconds": 86401}, "RequestRefused", "is 86401", id="long"),
        pytest.param({"request": "?"}, "RequestRefused", "not base64", id="not base64"),
        pytest.param({"request": "QUJD"}, "RequestRefused", "is not one PEM block", id="not PEM"),
    ],
)
def test_a_request_that_is_not_in_order_is_denied(
    spec: dict[str, Any], reason: str, words: str
) -> None:
    refusal = examine(signing_request(**spec), RULES)
    assert isinstance(refusal, Denial)
    assert refusal.reason == reason
    assert words in refusal.message


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        pytest.param(
            forged(x509.BasicConstraints(ca=True, path_length=None)), "asks for a CA", id="CA bit"
        ),
        pytest.param(
            forged(ids=(str(WEB), "spiffe://cluster.local/ns/shop/sa/api")),
            "has 2 URIs",
            id="two identities",
        ),
        pytest.param(
            forged(key=rsa.generate_private_key(65537, 1024)),  # noqa: S505 - must be refused
            "is RSA of 1024 bits",
            id="weak key",
        ),
        pytest.param(
            asking_for("spiffe://elsewhere.test/ns/shop/sa/web"),
            "is of another trust domain",
            id="foreign trust domain",
        ),
        pytest.param(
            asking_for("spiffe://cluster.local/admin"), "names no service account", id="bare path"
        ),
        pytest.param(
            asking_for("spiffe://cluster.local/ns/Shop/sa/web"),
            '"Shop"',
            id="no namespace name",
        ),
        pytest.param(
            asking_for("spiffe://cluster.local/ns/a.b/sa/web"), '"a.b"', id="dotted namespace"
        ),
    ],
)
def test_a_forged_request_is_denied_with_what_is_wrong(pem: bytes, words: str) -> None:
    refusal = examine(signing_request(pem), RULES)
    assert isinstance(refusal, Denial)
    assert refusal.reason == "RequestRefused"
    assert words in refusal.message


def test_all_that_is_wrong_is_said_at_once() -> None:
    refusal = examine(
        signing_request(
            forged(x509.BasicConstraints(ca=True, path_length=None)),
            usages=["cert sign"],
            expirationSeconds=1,
        ),
        RULES,
    )
    assert isinstance(refusal, Denial)
    for words in ("spec.usages", "spec.expirationSeconds", "basicConstraints"):
        assert words in refusal.message


def test_a_strangers_request_is_not_even_read() -> None:
    refusal = examine(signing_request(b"garbage", username="mallory"), RULES)
    assert isinstance(refusal, Denial)
    assert refusal.reason == "UnknownRequester"


def test_other_agents_and_trust_domains_are_a_matter_of_the_rules() -> None:
    rules = SigningRules(
        trust_domain=TrustDomain.parse("prod.example"), namespace="mesh", service_account="agent"
    )
    request = signing_request(
        asking_for("spiffe://prod.example/ns/shop/sa/web"),
        username="system:serviceaccount:mesh:agent",
        groups=["system:serviceaccounts:mesh"],
    )
    assert isinstance(examine(request, rules), Claim)
    assert isinstance(examine(signing_request(), rules), Denial)


@pytest.mark.parametrize(
    ("status", "awaits"),
    [
        pytest.param(None, True, id="new"),
        pytest.param("Approved", True, id="approved but not signed"),
        pytest.param("Denied", False, id="denied"),
        pytest.param("Failed", False, id="failed"),
    ],
)
def test_an_answered_request_is_left_alone(*, status: str | None, awaits: bool) -> None:
    request = signing_request()
    if status:
        condition = CertificateSigningRequestCondition(status="True", type=status)
        request.status = CertificateSigningRequestStatus(conditions=[condition])
    assert awaits_answer(request) is awaits


def test_a_signed_request_is_left_alone() -> None:
    request = signing_request()
    request.status = CertificateSigningRequestStatus(certificate="QUJD")
    assert not awaits_answer(request)


def test_another_signers_request_is_left_alone() -> None:
    assert not awaits_answer(signing_request(signerName="kubernetes.io/kubelet-serving"))


@given(
    username=st.sampled_from([AGENT, "mallory", None]),
    request=st.one_of(st.text(), st.binary().map(lambda raw: raw.hex())),
    usages=st.none() | st.lists(st.text(), max_size=4),
    seconds=st.none() | st.integers(min_value=-(2**31), max_value=2**31),
    extra=st.none() | st.dictionaries(st.just(NODE_NAME_ATTRIBUTE), st.lists(st.text())),
)
def test_any_request_is_judged_without_an_error(
    username: str | None,
    request: str,
    usages: list[str] | None,
    seconds: int | None,
    extra: dict[str, list[str]] | None,
) -> None:
    csr = signing_request(
        b"", username=username, usages=usages, expirationSeconds=seconds, extra=extra
    )
    csr.spec.request = request
    assert isinstance(examine(csr, RULES), Denial)
