"""What a node reports, and how the controller's answers are read."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock

import msgspec
import pytest
from lightkube import KubeConfig
from lightkube.config.models import Cluster
from lightkube.resources.certificates_v1 import CertificateSigningRequest
from lightkube.resources.core_v1 import ConfigMap

from troth.agent.certificates import IssuerCache, issuers
from troth.agent.cluster.report import NodeReporter, node_report
from troth.agent.cluster.requester import CsrRequester, certificate
from troth.cluster.contract import SIGNER_NAME, NodeReport
from troth.errors import PeerError, TrothError
from troth.identity.authority import CertificateAuthority
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.profile import root_fingerprint
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.identity.svid import X509Svid
from troth.kube.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lightkube.resources.coordination_v1 import Lease

    from troth.identity.bundle import TrustBundle
    from troth.kube.client import ApiClient

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TRUST_DOMAIN = TrustDomain.parse("cluster.local")
WEB = SpiffeId.for_service_account(TRUST_DOMAIN, "shop", "web")
OLD, NEW = (CertificateAuthority.self_signed(TRUST_DOMAIN, now=NOW) for _ in range(2))
ROOTS = (OLD.trust_bundle, NEW.trust_bundle)
BOTH = OLD.trust_bundle.merge(NEW.trust_bundle)


def svid(authority: CertificateAuthority) -> X509Svid:
    key = new_key()
    chain = authority.sign(build_csr(key, WEB), now=NOW).chain
    return X509Svid.assemble(key, chain, authority.trust_bundle, now=NOW, expected=WEB)


def fingerprint(bundle: TrustBundle) -> str:
    return root_fingerprint(bundle.certificates[0])


def test_a_report_names_the_roots_believed_and_those_in_use() -> None:
    issuers = IssuerCache().of([svid(NEW)], BOTH, NOW)
    report = node_report(policies="p", bundle=BOTH, issuers=issuers)
    old, new = fingerprint(OLD.trust_bundle), fingerprint(NEW.trust_bundle)
    assert report.roots == {old, new}
    assert report.issuers == {new}


def test_the_old_root_is_in_use_as_long_as_a_certificate_of_it_is() -> None:
    old, new = svid(OLD), svid(NEW)
    known = IssuerCache()
    assert known.of([new, old], BOTH, NOW) == set(map(fingerprint, ROOTS))
    assert known.of([new], BOTH, NOW) == {fingerprint(NEW.trust_bundle)}
    assert known.of([new, old], BOTH, old.not_after + timedelta(seconds=1)) == set()


def test_certificates_are_judged_anew_by_another_bundle() -> None:
    known, both = IssuerCache(), [svid(OLD), svid(NEW)]
    for bundle in ROOTS:
        assert known.of(both, bundle, NOW) == {fingerprint(bundle)}


def test_a_certificate_is_verified_once_however_often_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verified = Mock(wraps=issuers)
    monkeypatch.setattr("troth.agent.certificates.issuers", verified)
    known, certificate = IssuerCache(), svid(NEW)
    answers = {known.of([certificate], BOTH, NOW) for _ in range(3)}
    assert answers == {frozenset({fingerprint(NEW.trust_bundle)})}
    assert verified.call_count == 1


def test_reports_of_older_and_newer_agents_are_read() -> None:
    old = msgspec.json.decode(b'{"policies": "p"}', type=NodeReport)
    assert (old.joining, old.captured) == (frozenset(), None)
    assert msgspec.json.decode(b'{"policies": "p", "new": {}}', type=NodeReport) == old


def answered(**status: Any) -> CertificateSigningRequest:
    return msgspec.convert(
        {"spec": {"request": "", "signerName": SIGNER_NAME}, "status": status},
        CertificateSigningRequest,
    )


def test_a_certificate_is_taken_from_the_answer() -> None:
    assert certificate(answered(certificate=base64.b64encode(b"chain").decode())) == b"chain"


@pytest.mark.parametrize(
    "status",
    [{}, {"conditions": [{"type": "Approved", "status": "True"}]}],
    ids=["new", "approved"],
)
def test_an_answer_that_is_not_there_yet_is_waited_for(status: dict[str, Any]) -> None:
    assert certificate(answered(**status)) is None


@pytest.mark.parametrize("kind", ["Denied", "Failed"])
def test_a_refusal_comes_with_its_reason(kind: str) -> None:
    condition = {"type": kind, "status": "True", "reason": "NoPodOnNode", "message": "no pod"}
    with pytest.raises(PeerError, match=rf"{kind.lower()} the request \(NoPodOnNode\): no pod"):
        certificate(answered(conditions=[condition]))


def test_a_request_that_is_gone_is_an_error() -> None:
    with pytest.raises(PeerError, match="no longer has"):
        certificate(None)


def published(signer: CsrRequester, text: str, root: str = "") -> None:
    config_map = ConfigMap(data={"ca.crt": text})
    if root:
        config_map = msgspec.convert(
            {
                "metadata": {"annotations": {"troth.dev/signing-root": root}},
                "data": {"ca.crt": text},
            },
            ConfigMap,
        )
    objects = {"troth-system/troth-trust-bundle": config_map}
    signer._published = type("Stub", (), {"objects": objects})()
    signer._adopt()


@pytest.fixture
def signer() -> tuple[CsrRequester, list[None]]:
    told: list[None] = []
    config = KubeConfig.from_one(cluster=Cluster(server="https://api.test")).get()
    assert config is not None
    signer = CsrRequester(config, trust_domain=TRUST_DOMAIN, on_bundle=lambda: told.append(None))
    return signer, told


async def test_before_the_bundle_is_published_that_is_said(
    signer: tuple[CsrRequester, list[None]],
) -> None:
    with pytest.raises(PeerError, match="has not published ConfigMap troth-system/troth-trust-bun"):
        _ = signer[0].bundle


async def test_a_published_bundle_is_believed_and_told_once(
    signer: tuple[CsrRequester, list[None]],
) -> None:
    agent, told = signer
    for _ in range(2):
        published(agent, BOTH.pem.decode(), "f00d")
    await agent.ready()
    assert (agent.bundle, agent.signing_root, len(told)) == (BOTH, "f00d", 1)


@pytest.mark.parametrize("text", ["", "garbage", "-----BEGIN PRIVATE KEY-----"])
async def test_a_bundle_that_will_not_do_leaves_the_last_good_one(
    signer: tuple[CsrRequester, list[None]], text: str
) -> None:
    agent, told = signer
    published(agent, OLD.trust_bundle.pem.decode())
    published(agent, text)
    assert (agent.bundle, len(told)) == (OLD.trust_bundle, 1)


class Server:
    """An API server that takes every Lease, or refuses it."""

    def __init__(self) -> None:
        self.holders: list[str] = []
        self.error: TrothError | None = None
        self.again = asyncio.Event()

    async def apply(self, _: object, __: str, lease: Lease, ___: str) -> None:
        assert lease.spec is not None
        self.holders.append(lease.spec.holderIdentity or "nobody")
        self.again.set()
        if self.error is not None:
            raise self.error

    async def asked(self) -> None:
        await asyncio.wait_for(self.again.wait(), timeout=30)
        self.again.clear()


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    for name in ("_PAUSE_SECONDS", "_FIRST_RETRY_SECONDS"):
        monkeypatch.setattr(f"troth.agent.cluster.report.{name}", 0)
    return Server()


@contextlib.asynccontextmanager
async def reporting(server: Server) -> AsyncIterator[NodeReporter]:
    reporter = NodeReporter(
        cast("ApiClient", server), node="node-1", node_uid="1", namespace="troth-system"
    )
    writing = asyncio.create_task(reporter.run())
    try:
        yield reporter
    finally:
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing


REPORT = NodeReport(policies="", roots=frozenset(), issuers=frozenset())


async def test_after_a_pause_the_same_report_is_written_again(server: Server) -> None:
    async with reporting(server) as reporter:
        for _ in range(2):
            reporter.tell(REPORT)
            await server.asked()
            reporter.pause()
    assert server.holders == ["node-1", "node-1"]


async def test_a_report_is_renewed_while_the_agent_lives_and_given_back_at_its_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("troth.agent.cluster.report.REPORT_SECONDS", 0.01)
    async with reporting(server) as reporter:
        reporter.tell(REPORT)
        for _ in range(3):
            await server.asked()
    assert set(server.holders[:-1]) == {"node-1"}
    assert server.holders[-1] == "nobody"


async def test_a_report_that_can_not_be_renewed_is_trouble_until_it_is(server: Server) -> None:
    async with reporting(server) as reporter:
        server.error = NotFoundError("the API server", "has none")
        reporter.tell(REPORT)
        for _ in range(2):
            await server.asked()
        assert "has none" in reporter.trouble
        server.error = None
        for _ in range(2):
            reporter.tell(msgspec.structs.replace(REPORT, captured=len(server.holders)))
            await server.asked()
        assert not reporter.trouble
