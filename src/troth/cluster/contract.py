"""The contract between node agents and the controller: Kubernetes objects and their contents.

A node agent requests certificates by CertificateSigningRequests, reads the trust bundle, and
reports what it enforces in its own Lease. A Lease, because that is Kubernetes' small object for
"this node is alive and here": one write holds the report and its freshness, the Node owns it and so
it is deleted with the Node, and nobody watches it as configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
"""``spec.usages`` of such a request, in any order: exactly an SVID's."""

SHORTEST_LIFETIME = timedelta(minutes=10)
"""The minimum lifetime of a certificate: the API server's for ``spec.expirationSeconds``."""

LONGEST_LIFETIME = timedelta(hours=24)
"""The maximum lifetime of a certificate: then all that a retired root signed has expired."""

NODE_NAME_ATTRIBUTE = "authentication.kubernetes.io/node-name"
"""Extra attribute of a user whose token is bound to a pod (KEP-4193): the node of that pod."""

POD_NAME_ATTRIBUTE = "authentication.kubernetes.io/pod-name"

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
"""On the API's mirror of a static pod, which a kubelet makes."""

AUTHORITY_SECRET = "troth-ca"  # noqa: S105 - its name
"""The Secret with the authority's key: in the controller's namespace, read by nobody else."""

CONTROLLER = "troth-controller"
"""The controller's name: on its Lease, its Events, and the objects it manages."""

TRUST_BUNDLE = "troth-trust-bundle"
"""The ConfigMap with the trusted roots: in every mesh namespace and the controller's."""

TRUST_BUNDLE_KEY = "ca.crt"

SIGNING_ROOT_ANNOTATION = "troth.dev/signing-root"
"""On the trust bundle: fingerprint of the root that new certificates chain to.

A node agent with certificates of another root should renew them soon, because that root is about
to be retired.
"""

REPORT_LABEL = "troth.dev/report"
"""On a Lease, with the value ``node``: it contains a `NodeReport`."""

REPORT_ANNOTATION = "troth.dev/report"
"""The `NodeReport` as JSON."""

REPORT_SECONDS = 15
"""``spec.leaseDurationSeconds`` of a report: renewed three times as often, and when it changes.

After this time without a renewal the agent counts as silent.
"""

SILENCE = "its agent is silent: captured pods keep what it enforced last, no others are captured"
"""What a silent agent means for the node."""

REVIEW_API = ("troth.dev", "v1alpha1")
"""API group and version of ConnectionReviews."""

REVIEW_KIND = "ConnectionReview"
REVIEWS = "connectionreviews"

REVIEW_LIFETIME = timedelta(minutes=5)
"""An older review isn't answered any more, and the controller deletes it."""

_REPORT_PREFIX = "troth-node-"
_DIGEST_CHARACTERS = 32


class PodTrouble(msgspec.Struct, frozen=True, kw_only=True):
    """What is amiss with one pod of the mesh.

    Attributes:
        why: In words.
        policies: Those that it should be held to, by ``NAMESPACE/NAME``.
    """

    why: str
    policies: frozenset[str] = frozenset()


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one node enforces, as its Envoy has acknowledged it.

    For compatibility between versions, a new field needs a default that means "not reported", and
    readers ignore unknown fields.

    Attributes:
        policies: `policy_digest` of the PeerAuthentications that it enforces.
        roots: Fingerprints of the roots it trusts.
        issuers: Fingerprints of the roots that its certificates in use chain to.
        joining: Namespaces where some pods accept plaintext whatever the policies say, because
            they joined the mesh while in use and not all nodes know that yet.
        clients: `policy_digest` of the policies that the node's pods follow as clients: they no
            longer send plaintext to a port that these don't DISABLE. It can be ahead of
            ``policies``, because servers wait for clients on other nodes; empty if not reported.
        captured: How many pods' new connections go through Envoy, including pods that have left
            the mesh and are not released yet.
        plugin: Whether the CNI plugin captures pods before they start; None if not reported.
        uncaptured: Pods that have run without being captured for some time, by
            ``NAMESPACE/NAME``; of each namespace only a few.
        unmarked: Pods that are held to the policy without their clients being told, likewise.
        leniency: Why other processes of the node pass for its kubelet at the ports that it probes;
            empty if none do.
        trouble: Why it isn't further, in words; empty if all is well.
    """

    policies: str
    roots: frozenset[str] = frozenset()
    issuers: frozenset[str] = frozenset()
    joining: frozenset[str] = frozenset()
    clients: str = ""
    captured: int | None = None
    plugin: bool | None = None
    uncaptured: Mapping[str, PodTrouble] = {}
    unmarked: Mapping[str, PodTrouble] = {}
    leniency: str = ""
    trouble: str = ""


def report_lease(node: str) -> str:
    """The name of a node's Lease; no other object in the namespace can have it."""
    return _REPORT_PREFIX + node


def report_node(lease: str) -> str | None:
    """The node whose Lease has this name; None if it isn't a node's."""
    return lease.removeprefix(_REPORT_PREFIX) if lease.startswith(_REPORT_PREFIX) else None


def policy_digest(policies: Iterable[tuple[str, int]]) -> str:
    """Hash a set of stored PeerAuthentications, each as ``metadata.uid`` and ``.generation``.

    Every stored object counts, even a refused one: the digest says which versions were read. It
    keeps reports small, however many policies there are.
    """
    lines = sorted(f"{uid} {generation}\n" for uid, generation in policies)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:_DIGEST_CHARACTERS]
