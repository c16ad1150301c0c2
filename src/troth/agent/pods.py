"""A pod's life on its node, from joining the mesh until nothing of it is left: pure.

There is one record per pod, and `LIFE` has the rules: a pod's properties in each stage, and which
event moves it to which stage. Time is an argument. `troth.agent.capturer` does what the stages
require.

Other nodes learn with a delay that a pod is captured, or no longer captured. Meanwhile some still
send plaintext, or still use the tunnel, and both are served. Only a pod that was in use before its
capture accepts plaintext for that reason: one that isn't ready yet has no clients.

A pod can be *announced*: nothing runs in it yet, because the CNI plugin waits for its capture. It
is never lenient, even if the API server still shows it as ready. `NodeAgent.update` gets such pods
as long as they wait, and `NodeAgent.secures` says when one may start: when it is captured and
marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.envoy.limits import CONNECT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from troth.mesh.model import Pod

LATE_SECONDS = float(CONNECT_SECONDS)
"""How long a released pod is served in any case: a client that is connecting through the tunnel may
retransmit a lost or dropped first packet for that long.
"""

DRAIN_SECONDS = 600.0
"""How long connections of a released pod may continue: Envoy's own default.

The pod has left the mesh, but cutting a connection amid a request would be the mesh's fault.
"""


JOIN_SECONDS = 60.0
"""How long a joining pod accepts plaintext at most, even if its clients can't be told.

An admission webhook may refuse its mark forever, and a policy must not wait for that.
"""


UNCAPTURED_SECONDS = 10.0
"""How long a pod of the mesh may be without capture, or without its mark, as a matter of course."""


class Lack(Enum):
    """What a pod of the mesh is without."""

    CAPTURE = auto()
    """It isn't captured by this agent, or not as the policy says."""
    MARK = auto()
    """It is held to the policy, and others aren't told of its capture."""


class Stage(Enum):
    """A pod's stage."""

    SOUGHT = auto()
    """In the mesh; its network namespace isn't known yet."""
    PREPARED = auto()
    """Envoy gets its listeners; it has no clients yet."""
    PREPARED_IN_USE = auto()
    """The same, but it has clients that don't know about its capture."""
    JOINING = auto()
    """Captured, and not all of its clients know."""
    CAPTURED = auto()
    """Captured, and all know."""
    LEAVING = auto()
    """Out of the mesh, and not all of its clients know."""
    RELEASABLE = auto()
    """Out of the mesh, and all know."""
    RELEASED = auto()
    """Its rules are gone; a late client may still come through the tunnel."""
    DRAINING = auto()
    """It waits for its last connections to end."""
    GONE = auto()
    """Nothing is left of it, and its record is dropped."""


class PodEvent(Enum):
    """What happens to a pod."""

    FOUND = auto()
    """It is in the mesh, and its network namespace is known."""
    REPLACED = auto()
    """Its network namespace has changed: its sandbox was recreated."""
    ANNOUNCED = auto()
    """Nothing runs in it yet, and nothing will before it is captured."""
    USED = auto()
    """It has clients that may not know about its capture."""
    UNUSED = auto()
    """It has none."""
    REDIRECTED = auto()
    """Its rules redirect new connections to the agent's Envoy."""
    UNWANTED = auto()
    """It has left the mesh, and still runs."""
    EXPIRED = auto()
    """The stage has expired."""
    UNDONE = auto()
    """Its rules are gone."""
    IDLE = auto()
    """No connection of it goes through Envoy."""
    ENDED = auto()
    """It was deleted, has completed, or has lost its addresses or its network namespace."""


class Action(Enum):
    """What a stage requires the agent to do, repeatedly until an event ends the stage."""

    NONE = auto()
    CAPTURE = auto()
    RELEASE = auto()
    LOOK_FOR_CONNECTIONS = auto()


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """When a stage expires.

    Attributes:
        seconds: After this time; None means the time in which everybody learns of a mark.
        once_marked: Counted from when the pod is marked (True) or unmarked (False), restarting if
            that changes; None means from the stage's beginning.
        at_most: In any case after this time from the stage's beginning.
    """

    seconds: float | None = None
    once_marked: bool | None = None
    at_most: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of one stage, and what ends it.

    Attributes:
        action: What to do.
        wanted: The pod is in the mesh.
        served: Envoy needs the pod's listeners.
        redirected: New connections go through Envoy.
        marked: The pod should be marked as captured, for others.
        lenient: Plaintext is accepted whatever the policy says.
        clock: When it expires; None if it doesn't.
        then: The next stage by event. Any other event changes nothing.
    """

    action: Action = Action.NONE
    wanted: bool = False
    served: bool = True
    redirected: bool = False
    marked: bool = False
    lenient: bool = False
    clock: Clock | None = None
    then: Mapping[PodEvent, Stage] = {}


LIFE: Mapping[Stage, Row] = {
    Stage.SOUGHT: Row(
        wanted=True,
        served=False,
        then={
            PodEvent.FOUND: Stage.PREPARED,
            PodEvent.UNWANTED: Stage.GONE,
            PodEvent.ENDED: Stage.GONE,
        },
    ),
    Stage.PREPARED: Row(
        action=Action.CAPTURE,
        wanted=True,
        then={
            PodEvent.USED: Stage.PREPARED_IN_USE,
            PodEvent.REDIRECTED: Stage.CAPTURED,
            PodEvent.UNWANTED: Stage.GONE,  # nobody has talked to it through Envoy yet
            PodEvent.ENDED: Stage.GONE,
        },
    ),
    Stage.PREPARED_IN_USE: Row(
        action=Action.CAPTURE,
        wanted=True,
        lenient=True,  # before its capture, so that Envoy knows in time
        then={
            PodEvent.ANNOUNCED: Stage.PREPARED,
            PodEvent.UNUSED: Stage.PREPARED,
            PodEvent.REPLACED: Stage.PREPARED,
            PodEvent.REDIRECTED: Stage.JOINING,
            PodEvent.UNWANTED: Stage.GONE,
            PodEvent.ENDED: Stage.GONE,
        },
    ),
    Stage.JOINING: Row(
        wanted=True,
        redirected=True,
        marked=True,
        lenient=True,
        clock=Clock(once_marked=True, at_most=JOIN_SECONDS),
        then={
            PodEvent.ANNOUNCED: Stage.CAPTURED,
            PodEvent.REPLACED: Stage.PREPARED,
            PodEvent.EXPIRED: Stage.CAPTURED,
            PodEvent.UNWANTED: Stage.LEAVING,
            PodEvent.ENDED: Stage.GONE,
        },
    ),
    Stage.CAPTURED: Row(
        wanted=True,
        redirected=True,
        marked=True,
        then={
            PodEvent.REPLACED: Stage.PREPARED,
            PodEvent.UNWANTED: Stage.LEAVING,
            PodEvent.ENDED: Stage.GONE,
        },
    ),
    Stage.LEAVING: Row(
        redirected=True,
        lenient=True,
        clock=Clock(once_marked=False),
        then={
            PodEvent.FOUND: Stage.JOINING,
            PodEvent.REPLACED: Stage.PREPARED,
            PodEvent.EXPIRED: Stage.RELEASABLE,
            PodEvent.ENDED: Stage.GONE,
        },
    ),
    Stage.RELEASABLE: Row(
        action=Action.RELEASE,
        redirected=True,
        lenient=True,
        then={
            PodEvent.FOUND: Stage.JOINING,
            PodEvent.REPLACED: Stage.PREPARED,
            PodEvent.UNDONE: Stage.RELEASED,
            PodEvent.ENDED: Stage.GONE,
        },
    ),
    Stage.RELEASED: Row(
        lenient=True,
        clock=Clock(seconds=LATE_SECONDS),
        then={
            PodEvent.FOUND: Stage.PREPARED,
            PodEvent.REPLACED: Stage.PREPARED,
            PodEvent.EXPIRED: Stage.DRAINING,
            PodEvent.ENDED: Stage.GONE,
        },
    ),
    Stage.DRAINING: Row(
        action=Action.LOOK_FOR_CONNECTIONS,
        lenient=True,
        clock=Clock(seconds=DRAIN_SECONDS - LATE_SECONDS),
        then={
            PodEvent.FOUND: Stage.PREPARED,
            PodEvent.REPLACED: Stage.PREPARED,
            PodEvent.EXPIRED: Stage.GONE,
            PodEvent.IDLE: Stage.GONE,
            PodEvent.ENDED: Stage.GONE,
        },
    ),
    Stage.GONE: Row(served=False),
}


class PodRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All that an agent keeps about one pod.

    Attributes:
        netns: Its network namespace; None while that isn't known.
        until: When its stage expires; None if it doesn't, or its clock doesn't run yet.
        latest: When it expires even if that clock doesn't run; None if never.
        told: Whether it is marked: others know that it is captured.
        shown: Whether it should be marked, as of the last time that Envoy had its listeners.
        exempts: Whether its rules exempt the kubelet's probes; None if they don't redirect to this
            agent's Envoy.
        refusal: Why it should be captured and isn't; empty if there is no reason.
        reopened: How often Envoy's sockets in it had to be reopened.
        lack: What it is without, though something runs in it; None if nothing is missing.
        since: Since when.
    """

    stage: Stage
    netns: Path | None = None
    until: float | None = None
    latest: float | None = None
    told: bool = False
    shown: bool = False
    exempts: bool | None = None
    refusal: str = ""
    reopened: int = 0
    lack: Lack | None = None
    since: float = 0.0

    @property
    def listens_at(self) -> str:
        """The path of its network namespace for Envoy; empty while that isn't known.

        Envoy doesn't notice when somebody closes its sockets. It reopens them if a listener's
        address changes, for which a different spelling of the path is enough.
        """
        if self.netns is None:
            return ""
        return f"{self.netns.parent}/{'./' * self.reopened}{self.netns.name}"

    @property
    def row(self) -> Row:
        """The properties of its stage."""
        return LIFE[self.stage]

    @property
    def is_secured(self) -> bool:
        """Whether this agent's Envoy enforces the policy for it, and it is marked."""
        return self.stage is Stage.CAPTURED and self.exempts is not None and self.told


_LACKING = {
    Stage.SOUGHT: "its network namespace has not been found",
    Stage.PREPARED: "Envoy has not taken its listeners yet",
    Stage.PREPARED_IN_USE: "Envoy has not taken its listeners yet",
}


class Pods:
    """The records of a node's pods, by UID.

    Args:
        grace: Seconds within which everybody learns of a mark.
    """

    def __init__(self, *, grace: float) -> None:
        self._grace = grace
        self._records: dict[str, PodRecord] = {}
        self._unheard: frozenset[str] = frozenset()
        self._announced: frozenset[str] = frozenset()

    def see(
        self,
        wanted: Mapping[str, Path | None],
        pods: Mapping[str, Pod],
        now: float,
        *,
        announced: Mapping[str, Path] = {},
    ) -> None:
        """Update the records to the current state.

        Args:
            wanted: The pods to capture, by UID, each with its network namespace as soon as that is
                known.
            pods: All existing pods, by UID, and whether they are marked as captured.
            now: The time of a monotonic clock, in seconds.
            announced: The network namespaces in which nothing runs before they are captured, by
                their pods' UIDs.
        """
        for uid in self._records.keys() - wanted.keys():
            pod = pods.get(uid)
            has_ended = pod is None or pod.phase.is_final or not pod.addresses
            if pod is not None and pod.captured and self._records[uid].row.action is Action.CAPTURE:
                self._change(uid, stage=Stage.CAPTURED)  # by an earlier agent, whose rules stay
            self.happened(uid, PodEvent.ENDED if has_ended else PodEvent.UNWANTED)
        for uid, netns in wanted.items():
            self._find(uid, netns)
        for uid in tuple(self._records):
            self._look(uid, pods.get(uid), announced.get(uid))
            self._run_clock(uid, now)
        self._announced = frozenset(announced)
        self.note_time(now)

    def note_time(self, now: float) -> None:
        """Take note of when all that has happened since the last time did.

        What is due by now happens at the next `see`, where Envoy is told of it.
        """
        for uid in self._records:
            self._start_clock(uid, now)
            self._miss(uid, now)

    def happened(self, uid: str, event: PodEvent) -> None:
        """Move a pod to the next stage by `LIFE`; ignored if there is no such pod."""
        record = self._records.get(uid)
        stage = record.row.then.get(event) if record is not None else None
        if record is None or stage is None:
            return
        if stage is Stage.GONE:
            del self._records[uid]
            return
        row = LIFE[stage]
        self._records[uid] = msgspec.structs.replace(
            record,
            stage=stage,
            until=None,
            latest=None,
            exempts=record.exempts if row.redirected else None,
        )

    def led(self, uid: str, *, exempts: bool) -> None:
        """Record that a pod's new connections go to this agent's Envoy.

        Args:
            uid: The pod's.
            exempts: Whether its rules exempt the kubelet's probes.
        """
        self.happened(uid, PodEvent.REDIRECTED)
        self._unheard -= {uid}
        record = self._records.get(uid)
        if record is not None and record.row.redirected:
            self._change(uid, exempts=exempts)

    def adopt(self, uid: str, netns: Path) -> None:
        """Take over a pod that an earlier agent has captured."""
        self._records.setdefault(uid, PodRecord(stage=Stage.CAPTURED, netns=netns))

    def take_charge(self, joining: Collection[str]) -> None:
        """Continue from what another agent did.

        Args:
            joining: UIDs of the pods that it captured and that not everybody knows about yet.
        """
        self._unheard = frozenset(joining)
        for uid, record in self._records.items():
            self._change(uid, exempts=None, shown=record.shown and record.row.marked)

    def lost(self, uid: str) -> None:
        """Record that a pod's new connections may go anywhere: its rules have changed."""
        self._change(uid, exempts=None)

    def closed(self, uid: str) -> None:
        """Record that nobody listens any more where a pod's connections are redirected."""
        record = self._records.get(uid)
        if record is not None:
            self._change(uid, reopened=record.reopened + 1)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Record why pods are not captured as they should be, by UID; all others are."""
        for uid in self._records:
            self._change(uid, refusal=reasons.get(uid, ""))

    def show(self) -> None:
        """Set all marks as they should be: Envoy has what its pods need for that."""
        for uid, record in self._records.items():
            self._change(uid, shown=record.row.marked)

    def get(self, uid: str) -> PodRecord | None:
        """A pod's record; None if there is none."""
        return self._records.get(uid)

    @property
    def netns(self) -> Mapping[str, Path]:
        """Network namespaces of all pods that need Envoy's listeners, by UID."""
        return {
            uid: record.netns
            for uid, record in self._records.items()
            if record.row.served and record.netns is not None
        }

    @property
    def listens_at(self) -> Mapping[str, str]:
        """For the same pods, where Envoy listens (`PodRecord.listens_at`)."""
        return {uid: self._records[uid].listens_at for uid in self.netns}

    @property
    def lenient(self) -> frozenset[str]:
        """The pods that accept plaintext whatever the policy says."""
        return self._those(lambda record: record.row.lenient)

    @property
    def joining(self) -> frozenset[str]:
        """The `lenient` pods that are in the mesh, and will not be lenient for long."""
        return self._those(lambda record: record.row.lenient and record.row.wanted)

    @property
    def announced(self) -> frozenset[str]:
        """The pods that should be marked as captured."""
        return self._those(lambda record: record.shown)

    @property
    def refused(self) -> Mapping[str, str]:
        """Why pods that should be captured are not, by UID."""
        return {uid: each.refusal for uid, each in self._records.items() if each.refusal}

    def late(self, lack: Lack, now: float) -> Mapping[str, str]:
        """The pods that have been without something for too long, by UID; why, as far as known.

        Args:
            lack: What they are without.
            now: As of `see`.
        """
        return {
            uid: record.refusal or _LACKING.get(record.stage, "")
            for uid, record in self._records.items()
            if record.lack is lack and now >= record.since + UNCAPTURED_SECONDS
        }

    @property
    def redirected(self) -> frozenset[str]:
        """The pods whose new connections are redirected to Envoy."""
        return self._those(lambda record: record.row.redirected)

    @property
    def led_here(self) -> Mapping[str, Path]:
        """Network namespaces of those that are redirected to this agent's Envoy, by UID."""
        return {
            uid: record.netns
            for uid, record in self._records.items()
            if record.row.redirected and record.exempts is not None and record.netns is not None
        }

    @property
    def led_elsewhere(self) -> frozenset[str]:
        """The redirected pods that go to another agent's Envoy."""
        return self._those(lambda record: record.row.redirected and record.exempts is None)

    @property
    def secured(self) -> Mapping[str, Path]:
        """The pods that enforce the policy and are marked, with their network namespaces."""
        return {uid: netns for uid, netns in self.netns.items() if self._records[uid].is_secured}

    @property
    def wanted(self) -> frozenset[str]:
        """The pods in the mesh."""
        return self._those(lambda record: record.row.wanted)

    def due(self, action: Action) -> frozenset[str]:
        """The pods that require an action."""
        return self._those(lambda record: record.row.action is action)

    def exempting(self, *, probes: bool) -> frozenset[str]:
        """The pods whose rules, by this agent, exempt probes or don't."""
        return self._those(lambda record: record.exempts is probes)

    @property
    def next_change(self) -> float | None:
        """When time alone will change something; None if it won't."""
        moments = (
            moment for record in self._records.values() for moment in (record.until, record.latest)
        )
        return min((moment for moment in moments if moment is not None), default=None)

    def _those(self, are: Callable[[PodRecord], bool]) -> frozenset[str]:
        return frozenset(uid for uid, record in self._records.items() if are(record))

    def _change(self, uid: str, **fields: object) -> None:
        record = self._records.get(uid)
        if record is not None:
            self._records[uid] = msgspec.structs.replace(record, **fields)

    def _find(self, uid: str, netns: Path | None) -> None:
        record = self._records.setdefault(uid, PodRecord(stage=Stage.SOUGHT))
        if netns is None:  # one that was found before stays what it is
            return
        if record.netns not in (None, netns):
            self.happened(uid, PodEvent.REPLACED)
        self._change(uid, netns=netns)
        self.happened(uid, PodEvent.FOUND)

    def _look(self, uid: str, pod: Pod | None, announced: Path | None) -> None:
        told = pod is not None and pod.captured
        in_use = pod is not None and pod.ready and (not told or uid in self._unheard)
        self._change(uid, told=told)
        if announced is not None and announced == self._records[uid].netns:
            self.happened(uid, PodEvent.ANNOUNCED)
        else:
            self.happened(uid, PodEvent.USED if in_use else PodEvent.UNUSED)

    def _miss(self, uid: str, now: float) -> None:
        """Take note of what a pod is without; in one that is announced nothing runs yet."""
        record = self._records[uid]
        row, lack = record.row, None
        if row.wanted and uid not in self._announced:
            if not row.redirected or record.refusal:
                lack = Lack.CAPTURE
            elif record.shown and not (record.told or row.lenient):
                lack = Lack.MARK
        if lack is not record.lack:
            self._change(uid, lack=lack, since=now)

    def _run_clock(self, uid: str, now: float) -> None:
        while uid in self._records:
            self._start_clock(uid, now)
            record = self._records[uid]
            ends = [moment for moment in (record.until, record.latest) if moment is not None]
            if not any(now >= moment for moment in ends):
                return
            self.happened(uid, PodEvent.EXPIRED)

    def _start_clock(self, uid: str, now: float) -> None:
        record = self._records[uid]
        clock = record.row.clock
        if clock is None:
            return
        until, latest = None, record.latest
        if clock.once_marked in (None, record.told):
            seconds = self._grace if clock.seconds is None else clock.seconds
            until = record.until if record.until is not None else now + seconds
        if latest is None and clock.at_most is not None:
            latest = now + clock.at_most
        self._change(uid, until=until, latest=latest)
