"""What `troth status` says about a running mesh, as a value with a stable JSON form."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from troth.errors import Problem
from troth.local._status import ContainerStatus, Phase
from troth.policy import DecidedBy, Mode


class PortStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The effective mode of one port."""

    mode: Mode
    decided_by: DecidedBy


class PodReport(msgspec.Struct, frozen=True, kw_only=True):
    """One pod of the mesh.

    Attributes:
        in_mesh: Whether it is meant to be captured.
        captured: Whether its traffic goes through Envoy.
        why: Why it is in the mesh or not, and why it isn't captured although it should be.
        mode: The mode of all ports that ``ports`` doesn't name; None outside the mesh.
        certificate_expires: Of the SVID in use, UTC.
    """

    namespace: str
    name: str
    workload: str
    uid: str
    addresses: tuple[str, ...]
    phase: Phase
    ready: bool
    containers: tuple[ContainerStatus, ...]
    in_mesh: bool
    captured: bool
    why: str
    identity: str | None = None
    mode: Mode | None = None
    decided_by: DecidedBy | None = None
    ports: dict[int, PortStatus] = {}
    certificate_expires: datetime | None = None


class EnvoyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The node's Envoy: whether it is connected, how often restarted, what it refused."""

    connected: bool
    restarts: int
    refused: tuple[str, ...] = ()


class MeshStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole mesh; ``troth status -o json`` prints exactly this."""

    schema: Literal["troth/status/v1"] = "troth/status/v1"
    ready: bool
    waiting_for: tuple[str, ...]
    trust_domain: str
    root_namespace: str
    envoy: EnvoyStatus
    pods: tuple[PodReport, ...]
    problems: tuple[Problem, ...]
