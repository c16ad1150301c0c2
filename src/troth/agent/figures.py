"""What a node agent knows of itself, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent knows of itself at one moment.

    Attributes:
        generation: Number of the world in force; the newest is ``wanted_generation``.
        captured: How many pods' traffic goes through Envoy.
        not_captured: How many pods' should and doesn't.
        envoy_connected: Envoy has its configuration stream open.
        envoy_restarts: How often Envoy had to be started again.
        refused_resources: How many resources Envoy refuses now.
        certificates: Until when each identity's certificate is valid, by SPIFFE ID.
        lost_events: How many connection events could not be kept on disk.
    """

    generation: int
    wanted_generation: int
    captured: int
    not_captured: int
    envoy_connected: bool
    envoy_restarts: int
    refused_resources: int
    certificates: Mapping[str, datetime]
    lost_events: int
