"""The tunnel's TLS configuration, for both sides, and the secrets it refers to.

Certificates come by SDS under the SPIFFE ID of their service account, the trust bundle under the
trust domain's ID, so that a renewal changes one secret and no listener or cluster.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from google.protobuf import wrappers_pb2

from troth.envoy.resources import Message, ads, pack
from troth.mesh.ports import TUNNEL_ALPN

if TYPE_CHECKING:
    from troth.identity.bundle import TrustBundle
    from troth.identity.spiffe import SpiffeId, TrustDomain
    from troth.identity.svid import X509Svid


_WORKLOAD_PATH = "(/[A-Za-z0-9._-]+)+"
"""SPIFFE-ID, section 2.2; without a path it is the trust domain's ID, not a workload's."""


def bundle_name(trust_domain: TrustDomain) -> str:
    """The name of the secret with the trust bundle."""
    return f"spiffe://{trust_domain}"


def svid_secret(svid: X509Svid) -> Message:
    """The certificate and key of one service account."""
    return secret_pb2.Secret(
        name=str(svid.spiffe_id),
        tls_certificate=common_pb2.TlsCertificate(
            certificate_chain=base_pb2.DataSource(inline_bytes=svid.chain),
            private_key=base_pb2.DataSource(inline_bytes=svid.private_key.reveal()),
        ),
    )


def bundle_secret(bundle: TrustBundle) -> Message:
    """The roots that every certificate must chain to, and its only permitted trust domain.

    Envoy has a validator for X509-SVIDs, which would also refuse CA certificates. It isn't used: it
    accepts certificates for other purposes (extended key usage), doesn't tell the client why it
    refuses (the alert is always ``certificate_unknown``), and can't check the one identity that a
    client expects of a server.
    """
    any_of_ours = string_pb2.StringMatcher(
        safe_regex=regex_pb2.RegexMatcher(
            regex=re.escape(bundle_name(bundle.trust_domain)) + _WORKLOAD_PATH
        )
    )
    return secret_pb2.Secret(
        name=bundle_name(bundle.trust_domain),
        validation_context=common_pb2.CertificateValidationContext(
            trusted_ca=base_pb2.DataSource(inline_bytes=bundle.pem),
            match_typed_subject_alt_names=[
                common_pb2.SubjectAltNameMatcher(
                    san_type=common_pb2.SubjectAltNameMatcher.SanType.URI, matcher=any_of_ours
                )
            ],
        ),
    )


def _common(identity: SpiffeId) -> Message:
    tls_1_3 = common_pb2.TlsParameters.TlsProtocol.TLSv1_3
    return tls_pb2.CommonTlsContext(
        tls_params=common_pb2.TlsParameters(
            tls_minimum_protocol_version=tls_1_3, tls_maximum_protocol_version=tls_1_3
        ),
        alpn_protocols=[TUNNEL_ALPN],
        tls_certificate_sds_secret_configs=[
            secret_pb2.SdsSecretConfig(name=str(identity), sds_config=ads())
        ],
        validation_context_sds_secret_config=secret_pb2.SdsSecretConfig(
            name=bundle_name(identity.trust_domain), sds_config=ads()
        ),
    )


def server_socket(identity: SpiffeId) -> Message:
    """The tunnel's server side: it requires a client certificate of the mesh.

    Sessions are never resumed: a resumed one would skip the check of the client's certificate.
    """
    return base_pb2.TransportSocket(
        name="tls",
        typed_config=pack(
            tls_pb2.DownstreamTlsContext(
                common_tls_context=_common(identity),
                require_client_certificate=wrappers_pb2.BoolValue(value=True),
                disable_stateless_session_resumption=True,
                disable_stateful_session_resumption=True,
            )
        ),
    )


def client_socket(identity: SpiffeId) -> Message:
    """The tunnel's client side; the expected server identity comes with each connection."""
    return base_pb2.TransportSocket(
        name="tls",
        typed_config=pack(
            tls_pb2.UpstreamTlsContext(
                common_tls_context=_common(identity),
                max_session_keys=wrappers_pb2.UInt32Value(value=0),
            )
        ),
    )
