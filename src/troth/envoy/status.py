"""What Envoy made of its configuration, as values for status pages and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec


class Nack(msgspec.Struct, frozen=True, kw_only=True):
    """A resource that Envoy refused; what it had before under that name stays in force.

    Attributes:
        type_url: Its xDS type.
        name: Its name.
        version: The version refused.
        message: Envoy's own words.
    """

    type_url: str
    name: str
    version: str
    message: str


class TypeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The resources of one type, counted.

    Attributes:
        wanted: In the current snapshot.
        subscribed: Of those, what Envoy has asked for.
        acked: Of those, what it has in the current version.
        nacked: Of those, what it refused.
    """

    wanted: int = 0
    subscribed: int = 0
    acked: int = 0
    nacked: int = 0


class AdsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The ADS server as seen from the stream that was opened last.

    Attributes:
        connected: An Envoy has a stream open.
        settled: It has answered everything it asked for of the current snapshot.
        types: Counts by type URL.
        nacks: What it refuses now.
        last_push: When something was last sent to it, UTC.
        last_ack: When it last took something over, UTC.
    """

    connected: bool = False
    settled: bool = False
    types: Mapping[str, TypeStatus] = {}
    nacks: tuple[Nack, ...] = ()
    last_push: datetime | None = None
    last_ack: datetime | None = None
