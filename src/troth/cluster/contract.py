"""What node agents and the controller agree on: names of Kubernetes objects, and what they carry.

A node agent asks for certificates by CertificateSigningRequests, reads the trust bundle, and
reports what it enforces in a Lease of its own. A Lease, because that is Kubernetes' small object
for "this node is alive and here": the report and its freshness are one write, it is owned by the
Node and so removed with it, and it is no configuration that other people watch.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


NODE_SERVICE_ACCOUNT = "troth-node"
"""The service account of the node agents."""

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"

SIGNER_NAME = "troth.dev/workload"
"""``spec.signerName`` of the CertificateSigningRequests that the controller answers."""

CSR_USAGES = ("digital signature", "server auth", "client auth")
"""``spec.usages`` of such a request, in any order: what an SVID is good for and nothing else."""

SHORTEST_LIFETIME = timedelta(minutes=10)
"""Of a certificate: the least ``spec.expirationSeconds`` that the API server lets through."""

LONGEST_LIFETIME = timedelta(hours=24)
"""Of a certificate: after that long, nothing is left of what a retired root signed."""

NODE_NAME_ATTRIBUTE = "authentication.kubernetes.io/node-name"
"""Extra attribute of a user whose token is bound to a pod (KEP-4193): the node of that pod."""

POD_NAME_ATTRIBUTE = "authentication.kubernetes.io/pod-name"

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
"""On the API's mirror of a static pod, which a kubelet makes."""

AUTHORITY_SECRET = "troth-ca"  # noqa: S105 - its name
"""The Secret with the authority's key: beside the controller, and read by nobody else."""

CONTROLLER = "troth-controller"
"""The controller's name: on its Lease, its Events, and what it manages."""

TRUST_BUNDLE = "troth-trust-bundle"
"""The ConfigMap with the roots to believe: in every mesh namespace, and beside the controller."""

TRUST_BUNDLE_KEY = "ca.crt"

SIGNING_ROOT_ANNOTATION = "troth.dev/signing-root"
"""On the trust bundle: fingerprint of the root that new certificates chain to.

A node agent that holds certificates of another root should renew them soon, because that root is
about to be retired.
"""

REPORT_LABEL = "troth.dev/report"
"""On a Lease, with the value ``node``: it carries a `NodeReport`."""

REPORT_ANNOTATION = "troth.dev/report"
"""The `NodeReport` as JSON."""

REPORT_SECONDS = 15
"""``spec.leaseDurationSeconds`` of a report: renewed three times as often, or when it changes.

After that long without a renewal the agent counts as silent.
"""

SILENCE = "its agent is silent: captured pods keep what it enforced last, no others are captured"
"""What that means for the node."""

REVIEW_API = ("troth.dev", "v1alpha1")
"""API group and version of ConnectionReviews."""

REVIEW_KIND = "ConnectionReview"
REVIEWS = "connectionreviews"

REVIEW_LIFETIME = timedelta(minutes=5)
"""A review that is older isn't answered any more, and is deleted by the controller."""

_REPORT_PREFIX = "troth-node-"
_DIGEST_CHARACTERS = 32


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one node enforces, as its Envoy has acknowledged it.

    Agents and readers of other versions understand each other: a new field needs a default that
    says "not told", and fields that a reader doesn't know are passed over.

    Attributes:
        policies: `policy_digest` of the PeerAuthentications that it has seen and put in force.
        roots: Fingerprints of the roots it believes in.
        issuers: Fingerprints of the roots that the certificates it now uses chain to.
        joining: Namespaces of which some pods take plaintext whatever the policies say, because
            they joined the mesh while in use and not all nodes have heard of it yet.
        clients: `policy_digest` of those by which the node's pods go as clients: to a port that
            these don't DISABLE they no longer send plaintext. It can be ahead of ``policies``,
            because servers wait for clients on other nodes; empty if not told.
        captured: How many pods' new connections go through Envoy, those included that are out of
            the mesh and still to be released.
        plugin: Whether pods are captured before they start, by the CNI plugin; None if not told.
        trouble: Why it isn't further, in words; empty when all is well.
    """

    policies: str
    roots: frozenset[str] = frozenset()
    issuers: frozenset[str] = frozenset()
    joining: frozenset[str] = frozenset()
    clients: str = ""
    captured: int | None = None
    plugin: bool | None = None
    trouble: str = ""


def report_lease(node: str) -> str:
    """The name of a node's Lease, which nothing else in the namespace can have."""
    return _REPORT_PREFIX + node


def report_node(lease: str) -> str | None:
    """The node whose Lease has this name, if it is one's."""
    return lease.removeprefix(_REPORT_PREFIX) if lease.startswith(_REPORT_PREFIX) else None


def policy_digest(policies: Iterable[tuple[str, int]]) -> str:
    """Name one set of stored PeerAuthentications, each by ``metadata.uid`` and ``.generation``.

    Every stored object counts, also one that is refused: the digest says what was looked at. A
    report stays as small as this however many policies there are.
    """
    lines = sorted(f"{uid} {generation}\n" for uid, generation in policies)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:_DIGEST_CHARACTERS]
