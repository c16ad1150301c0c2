"""What a running mesh answers to the `troth` command, as values with a stable JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal

import msgspec

from troth.errors import Problem
from troth.mesh.model import EnvoyStatus, PodPhase
from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy


class State(StrEnum):
    """Which member of ``ContainerStatus.state`` is set."""

    WAITING = "waiting"
    RUNNING = "running"
    TERMINATED = "terminated"


class ContainerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``ContainerStatus``, flattened.

    Attributes:
        name: The container's.
        state: What it is doing now.
        reason: Why, in one CamelCase word, such as ``CrashLoopBackOff``; empty while it runs.
        message: Why, for people.
        sidecar: It is an init container that goes on running.
        exit_code: Of its last run that ended; 128 + N when signal N ended it.
        restarts: How often it was started again.
        pid: Of its process in the mesh's PID namespace; 0 when there is none.
        ready: It runs and its readiness probe, if any, succeeds.
        starts_again: When it does, after it has ended; None where it runs, or doesn't.
    """

    name: str
    state: State = State.WAITING
    reason: str = "PodInitializing"
    message: str = ""
    sidecar: bool = False
    exit_code: int | None = None
    restarts: int = 0
    pid: int = 0
    ready: bool = False
    starts_again: datetime | None = None


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
