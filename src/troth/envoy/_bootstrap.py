"""What Envoy is started with; everything else comes over the ADS stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def bootstrap(
    *, node_id: str, ads_socket: Path, admin_socket: Path, max_connections: int
) -> dict[str, Any]:
    """Envoy's bootstrap as JSON-ready data (``envoy.config.bootstrap.v3.Bootstrap``).

    Args:
        node_id: Names this Envoy to the ADS server and in its own logs.
        ads_socket: Unix socket of the delta ADS server.
        admin_socket: Where Envoy's admin interface shall listen, mode 0600.
        max_connections: How many downstream connections all pods together may have open; more
            are refused, so that one pod can't take Envoy down with it.
    """
    return {
        "node": {"id": node_id, "cluster": "troth"},
        "admin": {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}},
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap"
                    ".internal_listener.v3.InternalListener"
                },
            }
        ],
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors"
                        ".downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": max_connections,
                    },
                }
            ]
        },
        # What a big push has freed goes back to the system soon; by itself Envoy keeps it.
        "memory_allocator_manager": {
            "bytes_to_release": 16 * 1024 * 1024,
            "memory_release_interval": "1s",
        },
        # Nothing reads Envoy's own counters: troth's metrics come from the connection events.
        "stats_config": {"stats_matcher": {"reject_all": True}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}],
            },
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "ads",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams"
                            ".http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "ads",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {"endpoint": {"address": {"pipe": {"path": str(ads_socket)}}}}
                                ]
                            }
                        ],
                    },
                }
            ]
        },
    }
