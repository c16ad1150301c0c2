"""The controller on a real API server, with the rights of an installation and no more."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from lightkube import Client
from lightkube.models.certificates_v1 import (
    CertificateSigningRequestCondition,
    CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
)
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.certificates_v1 import (
    CertificateSigningRequest,
    CertificateSigningRequestApproval,
)
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import ConfigMap, Event, Secret
from tests.e2e.harness import PATIENCE_SECONDS, eventually
from tests.rig.control import (
    TRUST_DOMAIN,
    Control,
    background,
    in_thread,
    label,
    leading,
    mesh_namespace,
    running,
    soon,
)
from tests.rig.harness import Cluster
from tests.rig.objects import PeerAuthentication, find

from troth.agent.certificates import Signed
from troth.agent.cluster.report import NodeReporter
from troth.agent.cluster.requester import CsrRequester
from troth.cluster.contract import CSR_USAGES, SIGNER_NAME, NodeReport, policy_digest
from troth.cluster.events import Events
from troth.controller.authority import AuthorityKeeper
from troth.controller.keyring import ROTATE_ANNOTATION
from troth.errors import PeerError
from troth.identity.authority import CertificateAuthority
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.profile import root_fingerprint, validate_svid_chain
from troth.identity.rotation import SigningRequest
from troth.identity.spiffe import SpiffeId
from troth.kube.client import ApiClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from lightkube import SingleConfig

    from troth.identity.bundle import TrustBundle

pytestmark = pytest.mark.cluster

WEB = SpiffeId.for_service_account(TRUST_DOMAIN, "shop", "web")
API = SpiffeId.for_service_account(TRUST_DOMAIN, "shop", "api")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A control plane; nodes and pods are objects with nothing behind them."""
    with Cluster(nodes=()) as cluster:
        mesh_namespace(cluster, "shop")
        for account in ("web", "api"):
            cluster.service_account("shop", account)
        yield cluster


@pytest.fixture(scope="module")
def control(cluster: Cluster) -> Control:
    control = Control(cluster, "troth-system")
    for node, account in (("node-1", "web"), ("node-2", "api")):
        control.node(node)
        control.bound_pod(node, "shop", account, name=f"{account}-1")
    return control


@contextlib.asynccontextmanager
async def asking(
    control: Control, config: SingleConfig, **options: Any
) -> AsyncIterator[CsrRequester]:
    """A node agent's signer, once it knows the roots."""
    signer = CsrRequester(config, trust_domain=TRUST_DOMAIN, namespace=control.namespace, **options)
    async with background(signer.run()):
        await signer.ready()
        yield signer


def request_for(spiffe_id: SpiffeId) -> SigningRequest:
    return SigningRequest(spiffe_id=spiffe_id, csr=build_csr(new_key(), spiffe_id))


def requests(cluster: Cluster) -> list[str]:
    found = cluster.client.list(CertificateSigningRequest)
    return [(each.metadata.name if each.metadata else None) or "?" for each in found]


async def test_a_right_request_is_signed_end_to_end(cluster: Cluster, control: Control) -> None:
    async with running(control.config(), control.settings()) as controller:
        await leading(controller)
        agent = await in_thread(control.agent, "node-1")
        async with asking(control, agent, lifetime=timedelta(hours=1)) as signer:
            signed = await signer.sign(request_for(WEB))
            await in_thread(eventually, lambda: requests(cluster) == [], what="no request left")
    now = datetime.now(UTC)
    assert validate_svid_chain(signed.chain, signed.bundle, now=now) == WEB
    leaf = x509.load_pem_x509_certificates(signed.chain)[0]
    assert leaf.not_valid_after_utc <= now + timedelta(hours=1)


async def test_requests_made_at_once_are_each_given_their_own_answer(control: Control) -> None:
    keys = [new_key() for _ in range(8)]
    asked = [SigningRequest(spiffe_id=WEB, csr=build_csr(key, WEB)) for key in keys]
    async with running(control.config(), control.settings()) as controller:
        await leading(controller)
        agent = await in_thread(control.agent, "node-1")
        async with asking(control, agent) as signer:
            *signed, denied = await asyncio.gather(
                *map(signer.sign, asked), signer.sign(request_for(API)), return_exceptions=True
            )
    assert isinstance(denied, PeerError)
    for key, answer in zip(keys, signed, strict=True):
        assert isinstance(answer, Signed)
        leaf = x509.load_pem_x509_certificates(answer.chain)[0]
        assert leaf.public_key() == key.public_key()


async def test_another_nodes_service_account_is_denied_to_the_agent_with_the_reason(
    control: Control,
) -> None:
    async with running(control.config(), control.settings()) as controller:
        await leading(controller)
        agent = await in_thread(control.agent, "node-1")
        async with asking(control, agent) as signer:
            with pytest.raises(PeerError, match=r"denied the request \(NoPodOnNode\): node node-1"):
                await signer.sign(request_for(API))


def forged(*extensions: x509.ExtensionType, key: Any = None, names: tuple[str, ...] = ()) -> bytes:
    """A request as `build_csr` makes it for shop/web, with more in it."""
    san = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(str(WEB)), *map(x509.DNSName, names)]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(san, critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    csr = builder.sign(key or new_key(), hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM)


FORGED: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "another node's service account": (build_csr(new_key(), API), {}, "NoPodOnNode"),
    "a service account without pods": (
        build_csr(new_key(), SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/admin")),
        {},
        "NoPodOnNode",
    ),
    "an extra SAN": (forged(names=("api.shop.svc",)), {}, "RequestRefused"),
    "the CA bit": (
        forged(x509.BasicConstraints(ca=True, path_length=None)),
        {},
        "RequestRefused",
    ),
    "a weak key": (
        forged(key=rsa.generate_private_key(65537, 1024)),  # noqa: S505 - must be refused
        {},
        "RequestRefused",
    ),
    "another trust domain": (
        build_csr(new_key(), SpiffeId.parse("spiffe://elsewhere.test/ns/shop/sa/web")),
        {},
        "RequestRefused",
    ),
    "wrong usages": (
        build_csr(new_key(), WEB),
        {"usages": [*CSR_USAGES, "cert sign"]},
        "RequestRefused",
    ),
    "a life too long": (
        build_csr(new_key(), WEB),
        {"expirationSeconds": 86401},
        "RequestRefused",
    ),
}


def ask(config: SingleConfig, pem: bytes, **spec: Any) -> CertificateSigningRequest:
    fields = {
        "request": base64.b64encode(pem).decode(),
        "signerName": SIGNER_NAME,
        "usages": list(CSR_USAGES),
    } | spec
    with Client(config, trust_env=False) as client:
        return client.create(
            CertificateSigningRequest(
                metadata=ObjectMeta(generateName="forged-"),
                spec=CertificateSigningRequestSpec(**fields),
            )
        )


async def answer(cluster: Cluster, asked: CertificateSigningRequest) -> dict[str, Any]:
    """The one condition that a request without a certificate got."""
    assert asked.metadata is not None
    name = asked.metadata.name or ""

    def look() -> dict[str, Any] | None:
        found = find(cluster.client, CertificateSigningRequest, name)
        assert found is not None
        status = found.get("status", {})
        assert "certificate" not in status
        conditions = [c for c in status.get("conditions", ()) if c["type"] != "Approved"]
        return conditions[0] if conditions else None

    condition: dict[str, Any] = await soon(look, what=f"the answer to {name}")
    return condition


async def event_about(cluster: Cluster, uid: str | None, namespace: str) -> Event:
    def look() -> Event | None:
        events = cluster.client.list(Event, namespace=namespace)
        return next((each for each in events if each.involvedObject.uid == uid), None)

    event: Event = await soon(look, what="the event")
    return event


@pytest.mark.parametrize("what", FORGED)
async def test_a_forged_request_is_denied_with_the_reason_and_an_event(
    cluster: Cluster, control: Control, what: str
) -> None:
    pem, spec, reason = FORGED[what]
    async with running(control.config(), control.settings()) as controller:
        await leading(controller)
        agent = await in_thread(control.agent, "node-1")
        asked = await in_thread(ask, agent, pem, **spec)
        condition = await answer(cluster, asked)
        assert asked.metadata is not None
        event = await event_about(cluster, asked.metadata.uid, "default")
    assert (condition["type"], condition["reason"]) == ("Denied", reason)
    assert (event.type, event.reason, event.message) == ("Warning", reason, condition["message"])
    assert event.related is not None
    assert event.related.name == "troth-node-node-1"


@pytest.mark.parametrize(
    ("account", "bound", "reason"),
    [
        pytest.param("stranger", True, "UnknownRequester", id="another service account"),
        pytest.param("troth-node", False, "UnknownNode", id="a token that is bound to no pod"),
    ],
)
async def test_a_request_of_no_node_agent_is_denied(
    *, cluster: Cluster, control: Control, account: str, bound: bool, reason: str
) -> None:
    async with running(control.config(), control.settings()) as controller:
        await leading(controller)
        if bound:
            config = await in_thread(control.agent, "node-1", account)
        else:
            config = await in_thread(control.config, account)
        condition = await answer(cluster, await in_thread(ask, config, build_csr(new_key(), WEB)))
    assert (condition["type"], condition["reason"]) == ("Denied", reason)


async def test_a_forged_request_fails_even_if_somebody_approved_it(
    cluster: Cluster, control: Control
) -> None:
    agent = await in_thread(control.agent, "node-1")
    asked = await in_thread(ask, agent, build_csr(new_key(), API))
    approved = CertificateSigningRequestCondition(status="True", type="Approved", reason="Careless")
    asked.status = CertificateSigningRequestStatus(conditions=[approved])
    assert asked.metadata is not None
    await in_thread(
        cluster.client.replace,
        CertificateSigningRequestApproval(
            metadata=asked.metadata, spec=asked.spec, status=asked.status
        ),
        asked.metadata.name,
    )
    async with running(control.config(), control.settings()):
        condition = await answer(cluster, asked)
    assert (condition["type"], condition["reason"]) == ("Failed", "NoPodOnNode")


async def test_a_request_that_a_dead_leader_approved_is_signed_by_the_next(
    cluster: Cluster, control: Control
) -> None:
    agent = await in_thread(control.agent, "node-1")
    asked = await in_thread(ask, agent, build_csr(new_key(), WEB))
    assert asked.metadata is not None
    name = asked.metadata.name or ""
    condition = CertificateSigningRequestCondition(
        status="True", type="Approved", reason="PodOnNode"
    )
    await in_thread(
        cluster.client.replace,
        CertificateSigningRequestApproval(
            metadata=asked.metadata,
            spec=asked.spec,
            status=CertificateSigningRequestStatus(conditions=[condition]),
        ),
        name,
    )
    async with running(control.config(), control.settings()):
        await soon(
            lambda: "certificate" in cluster.get(CertificateSigningRequest, name).get("status", {}),
            what="the certificate",
        )


async def test_an_agent_hears_when_nobody_answers(control: Control) -> None:
    async with running(control.config(), control.settings()) as controller:
        await leading(controller)
    agent = await in_thread(control.agent, "node-1")
    async with asking(control, agent, answer_seconds=0.5) as signer:
        with pytest.raises(PeerError, match=r"did not answer .* in 0\.5 s; see that it is"):
            await signer.sign(request_for(WEB))


async def test_of_two_replicas_one_leads_and_the_other_takes_over(control: Control) -> None:
    settings = control.settings()
    async with running(control.config(), settings) as first:
        await leading(first)
        async with running(control.config(), settings) as second:
            await soon(lambda: second.readiness().leader == first.identity, what="the follower")
            assert not second.readiness().leading
            assert second.readiness().waiting_for == ()
        assert first.readiness().leading
    async with running(control.config(), settings) as third:
        await leading(third)


def start(control: Control, log: Any) -> subprocess.Popen[bytes]:
    """A replica as an installation runs it, except for where it is."""
    return subprocess.Popen(
        [
            *(sys.executable, "-c", "from troth.cli import main; main()"),
            *("controller", f"--namespace={control.namespace}", "--health-port=0"),
        ],
        env={**os.environ, "KUBECONFIG": str(control.kubeconfig())},
        stdout=log,
        stderr=subprocess.STDOUT,
    )


async def test_signing_goes_on_within_the_lease_when_the_leader_is_killed(
    cluster: Cluster, control: Control, tmp_path: Any
) -> None:
    def holder() -> str:
        lease = find(cluster.client, Lease, "troth-controller", control.namespace) or {}
        return str(lease.get("spec", {}).get("holderIdentity", ""))

    agent = await in_thread(control.agent, "node-1")
    with (tmp_path / "log").open("wb") as log, contextlib.ExitStack() as ends:
        leader = await in_thread(start, control, log)
        ends.callback(leader.kill)
        killed = await soon(holder, what="the first leader")
        other = await in_thread(start, control, log)
        ends.callback(other.kill)
        async with asking(control, agent, answer_seconds=60.0) as signer:
            await signer.sign(request_for(WEB))
            leader.send_signal(signal.SIGKILL)
            # Its lease, two attempts of the other, and a slow machine.
            async with asyncio.timeout(3 * (15 + 2 * 2)):
                await signer.sign(request_for(WEB))
        assert await in_thread(holder) != killed
        other.send_signal(signal.SIGTERM)
        assert await in_thread(other.wait, PATIENCE_SECONDS) == 0
        assert await in_thread(holder) == ""  # given back


async def test_two_replicas_that_start_first_at_once_make_one_root(cluster: Cluster) -> None:
    control = await in_thread(Control, cluster, "troth-race")
    config = control.config()
    async with contextlib.AsyncExitStack() as ends:
        authorities = []
        for _ in range(2):
            client = ApiClient(config, field_manager="test")
            ends.push_async_callback(client.aclose)
            authorities.append(
                AuthorityKeeper(
                    client,
                    trust_domain=TRUST_DOMAIN,
                    namespace=control.namespace,
                    events=Events(client, "troth-controller"),
                )
            )
        await asyncio.gather(*(each.refresh() for each in authorities))
    bundles = {each.keyring.bundle.pem for each in authorities if each.keyring}
    assert len(bundles) == 1
    assert len([each for each in authorities if each.keyring]) == 2


async def test_a_root_that_was_lost_is_not_replaced_behind_everybodys_back(
    cluster: Cluster,
) -> None:
    control = await in_thread(Control, cluster, "troth-lost")
    async with running(control.config(), control.settings()) as controller:
        await soon(lambda: bundle_in(cluster, control.namespace), what="the trust bundle")
    await in_thread(cluster.delete, Secret, "troth-ca", control.namespace)
    async with running(control.config(), control.settings()) as controller:
        words = await soon(
            lambda: next((w for w in controller.readiness().waiting_for if "gone" in w), None),
            what="the trouble",
        )
    assert "restore it from a backup" in words
    assert await in_thread(find, cluster.client, Secret, "troth-ca", control.namespace) is None


async def test_a_secret_deleted_under_a_running_controller_is_made_again(cluster: Cluster) -> None:
    control = await in_thread(Control, cluster, "troth-restored")

    def certificate() -> str | None:
        found = find(cluster.client, Secret, "troth-ca", control.namespace)
        return found["data"]["ca-cert.pem"] if found else None

    async with running(control.config(), control.settings()) as controller:
        await leading(controller)
        before = await in_thread(certificate)
        await in_thread(cluster.client.delete, Secret, "troth-ca", namespace=control.namespace)
        assert await soon(certificate, what="the Secret") == before


async def test_an_authority_of_ones_own_is_taken_and_a_broken_one_named(cluster: Cluster) -> None:
    control = await in_thread(Control, cluster, "troth-own")
    own = CertificateAuthority.self_signed(TRUST_DOMAIN, now=datetime.now(UTC))
    secret: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": control.namespace, "name": "troth-ca"},
        "data": {"ca-cert.pem": base64.b64encode(own.certificate_pem).decode()},
    }
    await in_thread(cluster.apply, secret)
    async with running(control.config(), control.settings()) as controller:
        await soon(
            lambda: any(
                "data[ca-key.pem]: is missing" in w for w in controller.readiness().waiting_for
            ),
            what="the trouble",
        )
        key = base64.b64encode(own.private_key.reveal()).decode()
        secret["data"]["ca-key.pem"] = key
        await in_thread(cluster.apply, secret)
        await leading(controller)
        published = await soon(lambda: bundle_in(cluster, control.namespace), what="its root")
    assert published == own.trust_bundle.pem.decode()


def bundle_in(cluster: Cluster, namespace: str) -> str | None:
    found = find(cluster.client, ConfigMap, "troth-trust-bundle", namespace)
    return found["data"]["ca.crt"] if found else None


async def test_every_mesh_namespace_has_the_trust_bundle_and_no_other_keeps_it(
    cluster: Cluster, control: Control
) -> None:
    await in_thread(cluster.namespace, "joining")
    async with running(control.config(), control.settings()) as controller:
        await leading(controller)
        await soon(lambda: bundle_in(cluster, "shop"), what="the bundle in shop")
        assert await in_thread(bundle_in, cluster, "joining") is None
        await in_thread(label, cluster, "joining", "enabled")
        bundle = await soon(lambda: bundle_in(cluster, "joining"), what="the bundle in joining")
        assert bundle == await in_thread(bundle_in, cluster, control.namespace)

        tampered = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": "joining", "name": "troth-trust-bundle"},
            "data": {"ca.crt": "somebody else's"},
        }
        await in_thread(cluster.apply, tampered)
        await soon(lambda: bundle_in(cluster, "joining") == bundle, what="the bundle's repair")

        await in_thread(label, cluster, "joining", None)
        await soon(lambda: bundle_in(cluster, "joining") is None, what="the bundle's removal")


def policy(name: str, namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }


def conditions(cluster: Cluster, name: str) -> dict[str, Any]:
    found = cluster.get(PeerAuthentication, name, "shop")
    return {each["type"]: each for each in found.get("status", {}).get("conditions", ())}


@contextlib.asynccontextmanager
async def reporting(control: Control, *nodes: str) -> AsyncIterator[list[NodeReporter]]:
    """Node agents that report what they are told to."""
    async with contextlib.AsyncExitStack() as ends:
        reporters = []
        for node in nodes:
            config = await in_thread(control.agent, node)
            client = ApiClient(config, field_manager="troth-node")
            ends.push_async_callback(client.aclose)
            uid = await in_thread(control.node, node)
            reporter = NodeReporter(client, node=node, node_uid=uid, namespace=control.namespace)
            await ends.enter_async_context(background(reporter.run()))
            reporters.append(reporter)
        yield reporters


async def test_a_policys_status_tells_how_many_nodes_enforce_it(cluster: Cluster) -> None:
    control = await in_thread(Control, cluster, "troth-status")
    await in_thread(cluster.apply, policy("default", mtls={"mode": "STRICT"}))
    metadata = (await in_thread(cluster.get, PeerAuthentication, "default", "shop"))["metadata"]
    enforced = NodeReport(policies=policy_digest([(metadata["uid"], metadata["generation"])]))
    behind = NodeReport(policies=policy_digest([]), trouble="Envoy is starting")
    async with (
        running(control.config(), control.settings()) as controller,
        reporting(control, "node-1", "node-2") as (first, second),
    ):
        await leading(controller)
        first.tell(enforced)
        second.tell(behind)
        message = "1 of 2 nodes; waiting for node-2 (Envoy is starting)"
        found = await soon(
            lambda: (
                (c := conditions(cluster, "default")) and c["Enforced"]["message"] == message and c
            ),
            what=lambda: f"{message!r} in {conditions(cluster, 'default')}",
        )
        assert found["Enforced"]["status"] == "False"
        assert (found["Accepted"]["status"], found["Accepted"]["reason"]) == ("True", "Valid")
        second.tell(enforced)
        await soon(
            lambda: conditions(cluster, "default")["Enforced"]["status"] == "True",
            what="enforcement",
        )
        assert conditions(cluster, "default")["Enforced"]["message"] == "2 of 2 nodes"
        event = await event_about(cluster, metadata["uid"], "shop")
    assert (event.type, event.reason, event.message) == ("Normal", "Enforced", "2 of 2 nodes")
    await in_thread(cluster.delete, PeerAuthentication, "default", "shop")


async def test_a_policy_that_the_schema_let_through_is_accepted_with_what_is_wrong_with_it(
    cluster: Cluster,
) -> None:
    control = await in_thread(Control, cluster, "troth-refusal")
    bad = policy("bad", selector={"matchLabels": {"app": "-web-"}}, mtls={"mode": "STRICT"})
    await in_thread(cluster.apply, bad)
    await in_thread(cluster.apply, policy("good", mtls={"mode": "STRICT"}))
    async with running(control.config(), control.settings()):
        found = await soon(lambda: conditions(cluster, "bad"), what="the status")
        good = await soon(lambda: conditions(cluster, "good"), what="the good one's status")
    assert (found["Accepted"]["status"], found["Accepted"]["reason"]) == (
        "True",
        "ValidWithWarnings",
    )
    assert 'spec.selector.matchLabels[app]: is "-web-"' in found["Accepted"]["message"]
    assert (good["Accepted"]["status"], good["Accepted"]["reason"]) == ("True", "Valid")
    for name in ("bad", "good"):
        await in_thread(cluster.delete, PeerAuthentication, name, "shop")


async def test_a_root_is_replaced_in_phases_each_when_the_nodes_are_ready(cluster: Cluster) -> None:
    control = await in_thread(Control, cluster, "troth-rotation")
    await in_thread(control.bound_pod, "node-1", "shop", "web", name="web-rotation")

    def secret() -> dict[str, Any]:
        return cluster.get(Secret, "troth-ca", control.namespace)

    def phase() -> str:
        annotations = secret()["metadata"]["annotations"]
        return str(annotations.get("troth.dev/rotation-phase", ""))

    async with (
        running(control.config(), control.settings()) as controller,
        reporting(control, "node-1") as (node,),
    ):
        await leading(controller)
        agent = await in_thread(control.agent, "node-1")
        async with asking(control, agent) as signer:
            old = signer.bundle
            first = await signer.sign(request_for(WEB))
            believed = {root_fingerprint(pem) for pem in old.certificates}
            node.tell(NodeReport(policies="", roots=frozenset(believed)))

            patch = {"metadata": {"annotations": {ROTATE_ANNOTATION: "now"}}}
            await in_thread(
                cluster.client.patch, Secret, "troth-ca", patch, namespace=control.namespace
            )
            await soon(lambda: len(signer.bundle.certificates) == 2, what="both roots")
            assert await in_thread(phase) == "distributing"
            both = signer.bundle
            during = await signer.sign(request_for(WEB))
            assert is_believed(during.chain, old)
            await soon(lambda: controller.readiness().rotation, what="what is awaited")
            assert controller.readiness().rotation == ("node-1 to believe in the new root",)

            believed = {root_fingerprint(pem) for pem in both.certificates}
            signs = {root_fingerprint(pem) for pem in old.certificates}
            node.tell(NodeReport(policies="", roots=frozenset(believed), issuers=frozenset(signs)))
            await soon(lambda: phase() == "switched", what="the switch")
            await soon(lambda: signer.signing_root not in signs, what="the news of it")
            after = await signer.sign(request_for(WEB))
            assert not is_believed(after.chain, old)
            assert is_believed(after.chain, both)
            assert is_believed(first.chain, signer.bundle)

            node.tell(NodeReport(policies="", issuers=frozenset({signer.signing_root})))
            await soon(lambda: phase() == "stable", what="the end")
            await soon(lambda: len(signer.bundle.certificates) == 1, what="the new root alone")
            assert is_believed(after.chain, signer.bundle)
            assert not is_believed(first.chain, signer.bundle)
    assert set(await in_thread(lambda: secret()["data"])) == {
        "ca-cert.pem",
        "ca-key.pem",
        "cert-chain.pem",
        "root-cert.pem",
    }


def is_believed(chain: bytes, bundle: TrustBundle) -> bool:
    try:
        validate_svid_chain(chain, bundle, now=datetime.now(UTC))
    except Exception:  # noqa: BLE001 - whatever it is, it isn't believed
        return False
    return True


async def test_a_controller_without_rights_says_which(cluster: Cluster) -> None:
    control = await in_thread(Control, cluster, "troth-powerless")
    async with running(control.config("stranger"), control.settings()) as controller:
        (words,) = await soon(
            lambda: (
                (state := controller.readiness()).waiting_for
                and "permission" in state.waiting_for[0]
                and state.waiting_for
            ),
            what=lambda: f"the trouble in {controller.readiness()}",
        )
        status, answer = await in_thread(ready_answer, controller.health_port)
    assert 'cannot get resource "leases"' in words
    assert status == 503
    assert answer["waiting_for"] == [words]


async def test_health_is_told_over_http(control: Control) -> None:
    async with running(control.config(), control.settings()) as controller:
        await leading(controller)
        assert await in_thread(get, controller.health_port, "/healthz") == (200, {})
        status, answer = await in_thread(ready_answer, controller.health_port)
        assert (status, answer["leading"], answer["waiting_for"]) == (200, True, [])
        assert (await in_thread(get, controller.health_port, "/other"))[0] == 404


def ready_answer(port: int) -> tuple[int, dict[str, Any]]:
    return get(port, "/readyz")


def get(port: int, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            body = error.read()
            return error.code, json.loads(body) if body.startswith(b"{") else {}
