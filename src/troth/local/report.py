"""What a running mesh answers to the `troth` command, as values with a stable JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from troth.dial.report import EnvoyStatus
from troth.errors import Problem
from troth.local.status import ContainerStatus
from troth.mesh.model import PodPhase
from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy
from troth.sources.without_effect import consequence


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
    phase: PodPhase
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


class MeshStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole mesh; ``troth status -o json`` prints exactly this.

    Attributes:
        policies: The PeerAuthentications that were taken up, ``NAMESPACE/NAME``, in order. They are
            in force when ``ready``.
        ignored: Objects of kinds that troth has no use for, by ``KIND.GROUP``.
    """

    schema: Literal["troth/status/v1"] = "troth/status/v1"
    ready: bool
    waiting_for: tuple[str, ...]
    trust_domain: str
    root_namespace: str
    envoy: EnvoyStatus
    policies: tuple[str, ...]
    ignored: Mapping[str, int]
    pods: tuple[PodReport, ...]
    problems: tuple[Problem, ...]


def ignored_notice(kind: str) -> str:
    """What to say of a kind (``KIND.GROUP``) for which a local mesh does nothing."""
    if meaning := consequence(kind):
        return f"has no effect here: {kind}: {meaning}"
    return f"ignored, as troth has no use for it: {kind}"
