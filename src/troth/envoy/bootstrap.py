"""Envoy's bootstrap configuration; everything else comes over the ADS stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from troth.envoy.limits import BUFFER_BYTES, RUNTIME_LAYER
from troth.envoy.overflow import COUNTERS
from troth.envoy.resources import RESET

if TYPE_CHECKING:
    from pathlib import Path

    from troth.envoy.limits import Limits

_HEAP = "envoy.resource_monitors.fixed_heap"

# Fractions of Envoy's maximum heap.
_SHRINK_AT = 0.85
_REJECT_AT = 0.95


def bootstrap(
    *,
    node_id: str,
    ads_socket: Path,
    admin_socket: Path,
    worker_socket: Path,
    reset_socket: Path,
    limits: Limits,
) -> dict[str, Any]:
    """Envoy's bootstrap as JSON-ready data (``envoy.config.bootstrap.v3.Bootstrap``).

    Args:
        node_id: Envoy's name for the ADS server and in its own logs.
        ads_socket: Unix socket of the delta ADS server.
        admin_socket: Unix socket of Envoy's admin interface, mode 0600.
        worker_socket: Unix socket where Envoy's worker answers (`Worker`), mode 0600.
        reset_socket: Unix socket that resets Envoy's own connections without a destination.
        limits: What all pods together may use, so that they can't exhaust Envoy.
    """
    return {
        "node": {"id": node_id, "cluster": "troth"},
        "admin": {"address": _pipe(admin_socket)},
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap"
                    ".internal_listener.v3.InternalListener",
                    "buffer_size_kb": BUFFER_BYTES // 1024,
                },
            }
        ],
        "overload_manager": _overload_manager(limits),
        "layered_runtime": {
            "layers": [
                {
                    "name": RUNTIME_LAYER,
                    "rtds_layer": {
                        "name": RUNTIME_LAYER,
                        "rtds_config": {"ads": {}, "resource_api_version": "V3"},
                    },
                }
            ]
        },
        # Return memory freed after a big push to the system soon; by default Envoy keeps it.
        "memory_allocator_manager": {
            "bytes_to_release": 16 * 1024 * 1024,
            "memory_release_interval": "1s",
        },
        # Only these counters of Envoy are read: what they count isn't in any access log. All other
        # metrics of troth come from the connection events.
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {"patterns": [{"suffix": suffix} for suffix in COUNTERS]}
            }
        },
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
            "listeners": [_answering(worker_socket), _reset_listener(reset_socket)],
            "clusters": [
                _reset_cluster(reset_socket),
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
                },
            ],
        },
    }


def _answering(path: Path) -> dict[str, Any]:
    """A listener that sends one byte to every client."""
    return {
        "name": "worker",
        "address": _pipe(path),
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "answer",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters"
                            ".network.direct_response.v3.Config",
                            "response": {"inline_string": "."},
                        },
                    }
                ]
            }
        ],
    }


def _reset_listener(socket: Path) -> dict[str, Any]:
    """A listener that resets every connection that sends anything.

    Envoy has no filter for that. But it closes a connection that matches no filter chain, and the
    kernel turns that into a reset if there is unread data. The inspector waits for the first bytes,
    peeks at them and leaves them unread.
    """
    inspector = (
        "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
    )
    never = "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config"
    return {
        "name": RESET,
        "address": _pipe(socket),
        "listener_filters": [{"name": "inspector", "typed_config": {"@type": inspector}}],
        "filter_chains": [
            {
                "filter_chain_match": {"transport_protocol": "none such"},
                "filters": [{"name": "never", "typed_config": {"@type": never}}],
            }
        ],
    }


def _reset_cluster(socket: Path) -> dict[str, Any]:
    """The cluster of `_reset_listener`; it sends something, the PROXY protocol's header."""
    sockets = "type.googleapis.com/envoy.extensions.transport_sockets"
    return {
        "name": RESET,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": RESET,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _pipe(socket)}}]}],
        },
        "transport_socket": {
            "name": "proxy_protocol",
            "typed_config": {
                "@type": f"{sockets}.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
                "config": {"version": "V1"},
                "transport_socket": {
                    "name": "raw_buffer",
                    "typed_config": {"@type": f"{sockets}.raw_buffer.v3.RawBuffer"},
                },
            },
        },
    }


def _pipe(socket: Path) -> dict[str, Any]:
    return {"pipe": {"path": str(socket), "mode": 0o600}}


def _overload_manager(limits: Limits) -> dict[str, Any]:
    """What Envoy does under overload: it accepts no new connections.

    Envoy itself opens the ADS stream, so policies still get through.
    """
    monitors: list[dict[str, Any]] = [
        {
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors"
                ".downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": limits.connections,
            },
        }
    ]
    if limits.heap_bytes is None:
        return {"resource_monitors": monitors}
    monitors.append(
        {
            "name": _HEAP,
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors"
                ".fixed_heap.v3.FixedHeapConfig",
                "max_heap_size_bytes": limits.heap_bytes,
            },
        }
    )
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": monitors,
        "actions": [
            _action("envoy.overload_actions.shrink_heap", _SHRINK_AT),
            # Not "stop_accepting_connections": clients would wait in vain.
            _action("envoy.overload_actions.reject_incoming_connections", _REJECT_AT),
        ],
    }


def _action(name: str, at: float) -> dict[str, Any]:
    return {"name": name, "triggers": [{"name": _HEAP, "threshold": {"value": at}}]}
