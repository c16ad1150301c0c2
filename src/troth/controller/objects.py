"""The kinds of objects that the controller follows, and how each is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from troth.cluster.contract import (
    AUTHORITY_SECRET,
    REVIEW_API,
    REVIEW_KIND,
    SIGNER_NAME,
    TRUST_BUNDLE,
)
from troth.cluster.contract import REVIEWS as REVIEWS_PLURAL
from troth.cluster.installation import ReportedNode, read_reported_node
from troth.controller.status import PolicyObject, read_policy
from troth.kube import wire
from troth.kube.kinds import CONFIG_MAP, CSR
from troth.kube.resource import ObjectKind, Resource, reader
from troth.kube.wire import decode
from troth.policy.model import API_VERSIONS, KIND

if TYPE_CHECKING:
    import msgspec

REQUESTS = CSR.objects(field_selector=f"spec.signerName={SIGNER_NAME}")

# By name, so that RBAC can allow just these ConfigMaps.
TRUST_BUNDLES = CONFIG_MAP.objects(field_selector=f"metadata.name={TRUST_BUNDLE}")

REVIEW = ObjectKind(
    kind=REVIEW_KIND,
    plural=REVIEWS_PLURAL,
    group=REVIEW_API[0],
    version=REVIEW_API[1],
    shape=wire.Object,
    metadata_only=True,
)
# Users decide their number and size.
REVIEWS = REVIEW.objects(page=50)


def policies() -> Resource[PolicyObject]:
    """PeerAuthentications, valid or not."""

    def convert(raw: msgspec.Raw) -> PolicyObject:
        document = decode(raw, dict[str, Any])
        # API servers leave these out of the items of lists.
        return read_policy({"apiVersion": API_VERSIONS[0], "kind": KIND, **document})

    return Resource(
        plural="peerauthentications",
        group="security.istio.io",
        versions=("v1", "v1beta1"),
        read=reader(KIND, convert),
        is_optional=True,
    )


def secret_versions(namespace: str) -> Resource[str]:
    """The authority's Secret, only to detect changes: its key is kept in one place."""

    def convert(raw: msgspec.Raw) -> str:
        return decode(raw, wire.Headed).metadata.resource_version

    return Resource(
        plural="secrets",
        namespace=namespace,
        read=reader("Secret", convert),
        field_selector=f"metadata.name={AUTHORITY_SECRET}",
    )


def reports(namespace: str) -> Resource[ReportedNode]:
    """The nodes' reports."""
    return Resource(
        plural="leases",
        group="coordination.k8s.io",
        namespace=namespace,
        read=reader("Lease", read_reported_node),
    )
