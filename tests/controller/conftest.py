"""Requests as a node agent makes them, and pods as the API server knows them."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import msgspec
from lightkube.models.core_v1 import Pod
from lightkube.resources.certificates_v1 import CertificateSigningRequest

from troth.cluster.contract import CSR_USAGES, NODE_NAME_ATTRIBUTE, SIGNER_NAME
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.spiffe import SpiffeId, TrustDomain

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TRUST_DOMAIN = TrustDomain.parse("cluster.local")
WEB = SpiffeId.for_service_account(TRUST_DOMAIN, "shop", "web")

AGENT = "system:serviceaccount:troth-system:troth-node"
AGENT_GROUPS = [
    "system:serviceaccounts",
    "system:serviceaccounts:troth-system",
    "system:authenticated",
]


def signing_request(pem: bytes | None = None, **spec: Any) -> CertificateSigningRequest:
    """A request in order, but for what ``spec`` says otherwise."""
    if pem is None:
        pem = build_csr(new_key(), WEB)
    fields: dict[str, Any] = {
        "request": base64.b64encode(pem).decode(),
        "signerName": SIGNER_NAME,
        "usages": list(CSR_USAGES),
        "username": AGENT,
        "groups": AGENT_GROUPS,
        "extra": {NODE_NAME_ATTRIBUTE: ["node-1"]},
    }
    return msgspec.convert(
        {"metadata": {"name": "troth-x", "uid": "u"}, "spec": fields | spec},
        CertificateSigningRequest,
    )


def pod(**overrides: Any) -> Pod:
    """A pod of shop/web on node-1, but for what the overrides say."""
    spec: dict[str, Any] = {
        "containers": [],
        "nodeName": "node-1",
        "serviceAccountName": "web",
    }
    phase = overrides.pop("phase", "Running")
    namespace = overrides.pop("namespace", "shop")
    annotations = overrides.pop("annotations", {})
    return msgspec.convert(
        {
            "metadata": {"name": "web-1", "namespace": namespace, "annotations": annotations},
            "spec": spec | overrides,
            "status": {"phase": phase},
        },
        Pod,
    )
