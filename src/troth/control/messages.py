"""The requests of the `troth` command to a running mesh, and the status in its stable JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from troth.errors import Problem
from troth.mesh.model import EnvoyStatus, PodPhase
from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy, PortMode
from troth.traffic.connection import Connection


class State(StrEnum):
    """Which member of ``ContainerStatus.state`` is set."""

    WAITING = "waiting"
    RUNNING = "running"
    TERMINATED = "terminated"


class ContainerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``ContainerStatus``, flattened.

    Attributes:
        name: The container's.
        state: The current state.
        reason: Why, in one CamelCase word, such as ``CrashLoopBackOff``; empty while it runs.
        message: Why, for people.
        sidecar: It is an init container that keeps running.
        exit_code: Of its last run that ended; 128 + N if signal N ended it.
        restarts: How often it was restarted.
        pid: Its process in the mesh's PID namespace; 0 if there is none.
        ready: It runs and its readiness probe, if any, succeeds.
        starts_again: When it restarts after having ended; None if it runs, or won't restart.
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


class PodReport(msgspec.Struct, frozen=True, kw_only=True):
    """One pod of the mesh.

    Attributes:
        in_mesh: Whether it should be captured.
        captured: Whether its traffic goes through Envoy.
        why: Why it is in the mesh or not, and why it isn't captured although it should be.
        mode: The mode of all ports that ``ports`` doesn't name; None outside the mesh.
        certificate_expires: Expiry of the SVID in use, UTC.
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
    ports: dict[int, PortMode] = {}
    certificate_expires: datetime | None = None


class JobState(StrEnum):
    """How far a Job is."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETE = "complete"
    FAILED = "failed"


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """A Job, written down or made by a CronJob.

    Attributes:
        cron_job: The CronJob that has made it; empty for one that is written down.
        state: How far it is.
        message: Why it has failed.
    """

    namespace: str
    name: str
    cron_job: str = ""
    state: JobState
    message: str = ""


class PodDescription(msgspec.Struct, frozen=True, kw_only=True):
    """All that there is to say of one pod; ``troth describe -o json`` prints exactly this.

    Attributes:
        services: The Services that lead to it, ``NAMESPACE/NAME``.
        notices: What has happened to it, oldest first.
        refusals: Its last refused connections, and why.
    """

    schema: Literal["troth/pod/v1"] = "troth/pod/v1"
    pod: PodReport
    init_containers: tuple[ContainerStatus, ...] = ()
    services: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()


class MeshStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole mesh; ``troth status -o json`` prints exactly this.

    Attributes:
        policies: The accepted PeerAuthentications, ``NAMESPACE/NAME``, in order. They are in force
            if ``ready``.
        ignored: Objects of kinds that troth doesn't use, by ``KIND.GROUP``.
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
    jobs: tuple[JobReport, ...] = ()


class RestartRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Pods to end and to start anew, by the name of one or of their workload."""

    name: str


class ScaleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A workload, ``NAMESPACE/NAME``, and how many pods it should have."""

    name: str
    replicas: Annotated[int, msgspec.Meta(ge=0, le=1000)]


class RouteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A route to describe.

    Attributes:
        source: The pod (or Deployment) that connects, ``NAMESPACE/NAME``.
        destination: As for `find_target`; so is ``port``.
    """

    source: str
    destination: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class TalkRequest(RouteRequest, frozen=True, kw_only=True):
    """A connection to make, and the seconds to wait for an answer."""

    timeout: Annotated[float, msgspec.Meta(gt=0, le=600)] = 5.0


class ConnectRequest(TalkRequest, frozen=True, kw_only=True):
    """A connection to make from a pod as its own processes would.

    Attributes:
        uncaptured: Bypass the pod's proxy, like a pod outside the mesh.
    """

    uncaptured: bool = False


class TraceRequest(TalkRequest, frozen=True, kw_only=True):
    """A handshake to trace from a pod to another's tunnel port.

    Attributes:
        credentials: What the client presents: a `troth.connect.report.Credentials`.
        claim: The pod (or Deployment) whose identity a forged certificate claims; by default the
            source's.
    """

    credentials: Literal["own", "none", "expired", "foreign-ca"] = "own"
    claim: str | None = None


class CauseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A connection to explain, as a proxy reported it."""

    connection: Connection


class WhyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Refusals to explain.

    Attributes:
        about: The only workload, pod or service of interest, ``NAMESPACE/NAME``.
        count: The maximum number of refusals to explain.
    """

    about: str | None = None
    count: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10


class AuditRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Connections to audit.

    Attributes:
        seconds: Only those that began at most this long ago; at most a week.
    """

    seconds: Annotated[float, msgspec.Meta(gt=0, le=7 * 24 * 3600)] = 3600


class StopRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the mesh.

    Attributes:
        grace: Seconds that pods may take to end, if less than their own grace periods.
    """

    grace: Annotated[float, msgspec.Meta(ge=0)] | None = None
