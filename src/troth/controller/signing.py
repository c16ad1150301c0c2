"""Whether a CertificateSigningRequest is signed: the rules, without I/O.

A node agent may have certificates only for the service accounts of the pods on its own node. It
can't choose the node: the API server derives it from the agent's token, which the kubelet had bound
to the agent's pod (KEP-4193), and writes it into the request. So a stolen node compromises the
identities of its own pods, not the mesh.

The judgement has two parts, because the second needs the pods: `examine` looks at the request
alone, `judge` at the pods of the node.
"""

from __future__ import annotations

import base64
import binascii
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from troth.cluster.contract import (
    CSR_USAGES,
    LONGEST_LIFETIME,
    MIRROR_ANNOTATION,
    NODE_NAME_ATTRIBUTE,
    NODE_SERVICE_ACCOUNT,
    SHORTEST_LIFETIME,
    SIGNER_NAME,
)
from troth.errors import InputError
from troth.identity.csr import CheckedCsr, parse_csr
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.mesh.world import DEFAULT_HOME
from troth.syntax import NAME, NAMESPACE, described

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lightkube.models.certificates_v1 import (
        CertificateSigningRequest,
        CertificateSigningRequestSpec,
    )
    from lightkube.models.core_v1 import Pod

_ENDED = ("Succeeded", "Failed")
_ANSWERED = ("Denied", "Failed")


class SigningRules(msgspec.Struct, frozen=True, kw_only=True):
    """Who may ask, and for what.

    Attributes:
        trust_domain: The trust domain of every signed identity.
        namespace: The node agents' namespace.
        service_account: The node agents' service account in it.
        lifetime: The default lifetime, for requests without ``spec.expirationSeconds``.
    """

    trust_domain: TrustDomain
    namespace: str = DEFAULT_HOME
    service_account: str = NODE_SERVICE_ACCOUNT
    lifetime: timedelta = timedelta(hours=12)

    @property
    def username(self) -> str:
        """The node agents' user name."""
        return f"system:serviceaccount:{self.namespace}:{self.service_account}"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A valid request, provided that the node has a pod of the service account.

    Attributes:
        node: The requesting agent's own.
        namespace: The service account's.
        service_account: The one to certify.
        request: The request's checked content.
        lifetime: The certificate's lifetime.
    """

    node: str
    namespace: str
    service_account: str
    request: CheckedCsr
    lifetime: timedelta


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request is denied: ``reason`` and ``message`` of the condition and the Event."""

    reason: str
    message: str


def awaits_answer(csr: CertificateSigningRequest) -> bool:
    """Whether ``csr`` is addressed to troth's signer and neither denied, failed nor signed yet."""
    return (
        csr.spec.signerName == SIGNER_NAME
        and not (csr.status and csr.status.certificate)
        and not any(has_condition(csr, kind) for kind in _ANSWERED)
    )


def has_condition(csr: CertificateSigningRequest, kind: str) -> bool:
    """Whether ``csr`` has the condition ``Approved``, ``Denied`` or ``Failed``."""
    conditions = (csr.status.conditions if csr.status else None) or ()
    return any(condition.type == kind for condition in conditions)


def examine(csr: CertificateSigningRequest, rules: SigningRules) -> Claim | Denial:
    """Judge a request by itself: who asks, and for what.

    A stranger's request is not even parsed.
    """
    spec = csr.spec
    groups = spec.groups or ()
    if spec.username != rules.username or (
        f"system:serviceaccounts:{rules.namespace}" not in groups
    ):
        return Denial(
            reason="UnknownRequester",
            message=f"{described(spec.username)} is not a node agent of troth; only "
            f"{rules.username} may ask for certificates of {SIGNER_NAME}",
        )
    nodes: list[str] = (spec.extra or {}).get(NODE_NAME_ATTRIBUTE) or []
    if len(nodes) != 1 or not nodes[0]:
        return Denial(
            reason="UnknownNode",
            message=f"the requester's token names {len(nodes)} nodes in {NODE_NAME_ATTRIBUTE}; use "
            "the token that the kubelet projects into the agent's pod (Kubernetes 1.30 or newer)",
        )
    flaws = [*_usage_flaws(spec), *_lifetime_flaws(spec)]
    request, content_flaws = _content(spec)
    flaws += content_flaws
    if request is not None:
        flaws += _identity_flaws(request.spiffe_id, rules.trust_domain)
    if flaws or request is None:
        return Denial(reason="RequestRefused", message="; ".join(flaws))
    asked = spec.expirationSeconds
    return Claim(
        node=nodes[0],
        namespace=request.spiffe_id.namespace or "",
        service_account=request.spiffe_id.service_account or "",
        request=request,
        lifetime=rules.lifetime if asked is None else timedelta(seconds=asked),
    )


def judge(claim: Claim, pods: Iterable[Pod]) -> Denial | None:
    """Judge a claim by the existing pods; None if it is granted."""
    if any(_runs(pod, claim) for pod in pods):
        return None
    return Denial(
        reason="NoPodOnNode",
        message=f"node {claim.node} has no pod of the service account "
        f"{claim.namespace}/{claim.service_account}; a node agent gets certificates for the "
        "pods of its own node alone",
    )


def _runs(pod: Pod, claim: Claim) -> bool:
    """Whether ``pod`` needs the certificate: it exists, has not ended, and has its own network.

    A pod that is being deleted counts: it serves until its grace period ends. A static pod's mirror
    doesn't. Kubelets create these by themselves, in any namespace, without a service account:
    otherwise a stolen node would get every namespace's ``default``.
    """
    spec, metadata = pod.spec, pod.metadata
    if spec is None or metadata is None or MIRROR_ANNOTATION in (metadata.annotations or {}):
        return False
    return (
        metadata.namespace == claim.namespace
        and spec.nodeName == claim.node
        and spec.serviceAccountName == claim.service_account
        and not spec.hostNetwork
        and not (pod.status is not None and pod.status.phase in _ENDED)
    )


def _usage_flaws(spec: CertificateSigningRequestSpec) -> Iterator[str]:
    usages = spec.usages or []
    if sorted(usages) != sorted(CSR_USAGES):
        found = ", ".join(map(described, usages)) or "empty"
        yield f"spec.usages: is {found}; ask for {', '.join(CSR_USAGES)}"


def _lifetime_flaws(spec: CertificateSigningRequestSpec) -> Iterator[str]:
    asked = spec.expirationSeconds
    shortest, longest = (
        int(each.total_seconds()) for each in (SHORTEST_LIFETIME, LONGEST_LIFETIME)
    )
    if asked is not None and not shortest <= asked <= longest:
        # Refused rather than capped: the requester would rely on what it requested.
        yield (
            f"spec.expirationSeconds: is {described(asked, bare=True)}; ask for {shortest} to "
            f"{longest}, or leave it out"
        )


def _content(spec: CertificateSigningRequestSpec) -> tuple[CheckedCsr | None, list[str]]:
    try:
        pem = base64.b64decode(spec.request, validate=True)
    except (binascii.Error, ValueError):
        return None, ["spec.request: is not base64; encode the PEM"]
    try:
        return parse_csr(pem, subject="spec.request"), []
    except InputError as error:
        return None, [str(problem) for problem in error.problems]


def _identity_flaws(asked: SpiffeId, trust_domain: TrustDomain) -> Iterator[str]:
    path = "spec.request: subjectAltName"
    if asked.trust_domain != trust_domain:
        yield f"{path}: {asked} is of another trust domain; ask for one of {trust_domain}"
    if asked.namespace is None or asked.service_account is None:
        yield f"{path}: {asked} names no service account; ask for /ns/NAMESPACE/sa/NAME"
        return
    # It becomes part of a request to the API server.
    for rule, name in ((NAMESPACE, asked.namespace), (NAME, asked.service_account)):
        if flaw := rule.flaw(name):
            yield f"{path}: {described(name)} {flaw[0]}; {flaw[1]}"
