"""Two contenders made of Envoys: one that carries TCP, and one shaped like an Istio sidecar."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from benchmarks.data_plane.certificates import IDENTITY, KEY, LEAF, ROOT
from troth.mesh.ports import OUTBOUND_PORT, TUNNEL_PORT

if TYPE_CHECKING:
    from pathlib import Path

_TYPE = "type.googleapis.com/envoy.extensions"
_Json = dict[str, Any]


class Shape(StrEnum):
    """What an Envoy makes of a connection."""

    TCP = "tcp"
    """Bytes."""
    HTTP = "http"
    """Requests, as a sidecar of Istio does: routed, numbered, logged; connections are pooled.

    Istio's own filters (metadata exchange, statistics) aren't in a stock Envoy, so a real sidecar
    does more than this one.
    """


def client(files: Path, server_address: str, *, shape: Shape) -> _Json:
    """The one beside the client: what is led to it, on to the other over mutual TLS."""
    return _bootstrap(
        _listener("127.0.0.1", OUTBOUND_PORT, _chain(files, shape, tls=None)),
        _cluster(server_address, TUNNEL_PORT)
        | {"transport_socket": _tls("UpstreamTlsContext", files, {"max_session_keys": 0})},
    )


def server(files: Path, app_port: int, *, shape: Shape) -> _Json:
    """The one beside the server: mutual TLS, then the app."""
    demanding = {
        "require_client_certificate": True,
        "disable_stateless_session_resumption": True,
        "disable_stateful_session_resumption": True,
    }
    tls = _tls("DownstreamTlsContext", files, demanding)
    return _bootstrap(
        _listener("0.0.0.0", TUNNEL_PORT, _chain(files, shape, tls=tls)),  # noqa: S104 - a pod's
        _cluster("127.0.0.1", app_port),
    )


def _bootstrap(listener: _Json, cluster: _Json) -> _Json:
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _listener(address: str, port: int, chain: _Json) -> _Json:
    return {
        "name": "in",
        "address": {"socket_address": {"address": address, "port_value": port}},
        "filter_chains": [chain],
    }


def _chain(files: Path, shape: Shape, *, tls: _Json | None) -> _Json:
    network = _tcp_proxy() if shape is Shape.TCP else _http(files, verified=tls is not None)
    chain: _Json = {"filters": [network]}
    if tls is not None:
        chain["transport_socket"] = tls
    return chain


def _tcp_proxy() -> _Json:
    return {
        "name": "tcp",
        "typed_config": {
            "@type": f"{_TYPE}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp",
            "cluster": "out",
        },
    }


def _http(files: Path, *, verified: bool) -> _Json:
    manager: _Json = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "generate_request_id": True,
        "access_log": [
            {
                "name": "file",
                "typed_config": {
                    "@type": f"{_TYPE}.access_loggers.file.v3.FileAccessLog",
                    "path": str(files / "access.log"),
                },
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "out"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
            }
        ],
    }
    if verified:
        manager["forward_client_cert_details"] = "APPEND_FORWARD"
        manager["set_current_client_cert_details"] = {"uri": True}
    return {"name": "http", "typed_config": manager}


def _cluster(address: str, port: int) -> _Json:
    unlimited = 2**32 - 1
    endpoint = {"address": {"socket_address": {"address": address, "port_value": port}}}
    return {
        "name": "out",
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": unlimited,
                    "max_pending_requests": unlimited,
                    "max_requests": unlimited,
                }
            ]
        },
        "load_assignment": {
            "cluster_name": "out",
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }


def _tls(kind: str, files: Path, more: _Json) -> _Json:
    return {
        "name": "tls",
        "typed_config": {
            "@type": f"{_TYPE}.transport_sockets.tls.v3.{kind}",
            "common_tls_context": {
                "tls_params": {
                    "tls_minimum_protocol_version": "TLSv1_3",
                    "tls_maximum_protocol_version": "TLSv1_3",
                },
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(files / LEAF)},
                        "private_key": {"filename": str(files / KEY)},
                    }
                ],
                "validation_context": {
                    "trusted_ca": {"filename": str(files / ROOT)},
                    "match_typed_subject_alt_names": [
                        {"san_type": "URI", "matcher": {"exact": IDENTITY}}
                    ],
                },
            },
            **more,
        },
    }
