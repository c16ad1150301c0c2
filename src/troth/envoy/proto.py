"""Small constructors for the pieces of Envoy's API that several builders share."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import address_pb2, config_source_pb2, socket_option_pb2
from google.protobuf import any_pb2

Message = Any
"""A protobuf message; the generated classes carry no types."""


def pack(message: Message) -> any_pb2.Any:
    """Wrap ``message`` as an Any, byte for byte the same for equal messages."""
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed


def socket_address(address: str, port: int, *, netns: str = "") -> Message:
    """An address, possibly in another network namespace (Envoy 1.35 and later)."""
    return address_pb2.Address(
        socket_address=address_pb2.SocketAddress(
            address=address,
            port_value=port,
            network_namespace_filepath=netns,
        )
    )


def mark_option(mark: int) -> Message:
    """SO_MARK on a socket before it is bound."""
    sol_socket, so_mark = 1, 36
    return socket_option_pb2.SocketOption(
        description="troth's own traffic",
        level=sol_socket,
        name=so_mark,
        int_value=mark,
        state=socket_option_pb2.SocketOption.STATE_PREBIND,
    )


def ads() -> Message:
    """The config source "the ADS stream"."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.ApiVersion.V3,
    )
