"""A pod's life on its node, from the moment it is in the mesh until nothing of it is left: pure.

There is one record per pod, and `LIFE` says the rest: what holds for a pod in each stage, and which
event moves it to which other stage. Time is passed in. `troth.agent.capturer` does to the pods what
their stages ask for.

Other nodes learn late that a pod is captured, or is no longer. Meanwhile some of them still send
plaintext, or still use the tunnel, and both are served. Only a pod that was in use before its
capture ever takes plaintext for that reason: one that isn't ready yet has no clients to be refused.

A pod can be *announced*: nothing runs in it yet, because the CNI plugin waits for its capture. It
is never lenient, however ready the API server still believes it to be. `NodeAgent.update` is told
of such pods for as long as they wait, and `NodeAgent.secures` says when one may start: when it is
captured and its mark is out.
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
"""How long a released pod is served in any case: so long a client that has begun to connect by the
tunnel may send its first packet again and again, if it gets lost or is dropped.
"""

DRAIN_SECONDS = 600.0
"""How long connections of a released pod may live on; as long as Envoy itself lets them by default.

They are no longer the mesh's, but cutting one amid a request would be the mesh's doing.
"""


JOIN_SECONDS = 60.0
"""How long a pod that joins takes plaintext at most, though its clients can't be told of it.

To mark it may fail for as long as an admission webhook likes, and a policy is not to wait for that.
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
    """How far a pod is."""

    SOUGHT = auto()
    """In the mesh; its network namespace isn't known yet."""
    PREPARED = auto()
    """Envoy is given its listeners; it has no clients yet."""
    PREPARED_IN_USE = auto()
    """The same, and it has clients that don't know of its capture."""
    JOINING = auto()
    """Captured, and not all of its clients know."""
    CAPTURED = auto()
    """Captured to stay."""
    LEAVING = auto()
    """Out of the mesh, and not all of its clients know."""
    RELEASABLE = auto()
    """Out of the mesh, and all know."""
    RELEASED = auto()
    """Its rules are gone; a client may still come late by the tunnel."""
    DRAINING = auto()
    """It waits for its last connections to end."""
    GONE = auto()
    """Nothing is left of it, and its record is dropped."""


class PodEvent(Enum):
    """What happens to a pod."""

    FOUND = auto()
    """It is in the mesh, and its network namespace is known."""
    REPLACED = auto()
    """Its network namespace is another one: its sandbox was made again."""
    ANNOUNCED = auto()
    """Nothing runs in it yet, and nothing will before it is captured."""
    USED = auto()
    """It has clients that may not know of its capture."""
    UNUSED = auto()
    """It has none."""
    REDIRECTED = auto()
    """Its rules lead new connections to the agent's Envoy."""
    UNWANTED = auto()
    """It is in the mesh no more, and lives on."""
    EXPIRED = auto()
    """The stage's time is over."""
    UNDONE = auto()
    """Its rules are gone."""
    IDLE = auto()
    """No connection of it goes through Envoy."""
    ENDED = auto()
    """It was deleted, has completed, or has lost its addresses or its network namespace."""


class Action(Enum):
    """What a stage asks the agent to do, again and again until an event ends the stage."""

    NONE = auto()
    CAPTURE = auto()
    RELEASE = auto()
    LOOK_FOR_CONNECTIONS = auto()


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """When a stage expires.

    Attributes:
        seconds: After this time; after the time in which everybody hears of a mark if it is None.
        once_marked: Counted from when the pod's mark is out (True) or away (False), and again from
            the start if that changes; from the stage's beginning if it is None.
        at_most: And after this time from the stage's beginning in any case.
    """

    seconds: float | None = None
    once_marked: bool | None = None
    at_most: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What holds in one stage, and what ends it.

    Attributes:
        action: What is to be done.
        wanted: The pod is captured to stay, or is to be.
        served: Envoy needs the pod's listeners.
        redirected: New connections go through Envoy.
        marked: Others are to be told that the pod is captured.
        lenient: What comes without the tunnel passes whatever the policy says.
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
    """All that an agent remembers of one pod.

    Attributes:
        netns: Its network namespace; None while that isn't known.
        until: When its stage expires; None if it doesn't, or its clock doesn't run yet.
        latest: When it expires whether or not that clock runs; None if that is never.
        told: Whether its mark is out: others are told that it is captured.
        shown: Whether its mark is to be out, as of the last time that Envoy had its listeners.
        exempts: Whether its rules exempt the kubelet's probes; None if they don't lead to this
            agent's Envoy.
        refusal: Why it should be captured and isn't; empty if nothing is in the way.
        reopened: How often Envoy's sockets in it had to be made again.
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
        """Its network namespace as Envoy is told of it; empty while that isn't known.

        Envoy doesn't notice when somebody closes its sockets. It makes others where a listener's
        address is another one, for which another way to write the path is enough.
        """
        if self.netns is None:
            return ""
        return f"{self.netns.parent}/{'./' * self.reopened}{self.netns.name}"

    @property
    def row(self) -> Row:
        """What holds for it now."""
        return LIFE[self.stage]

    @property
    def is_secured(self) -> bool:
        """Whether this agent's Envoy holds it to the policy, and its mark is out."""
        return self.stage is Stage.CAPTURED and self.exempts is not None and self.told


_LACKING = {
    Stage.SOUGHT: "its network namespace has not been found",
    Stage.PREPARED: "Envoy has not taken its listeners yet",
    Stage.PREPARED_IN_USE: "Envoy has not taken its listeners yet",
}


class Pods:
    """The records of a node's pods, by UID.

    Args:
        grace: Seconds within which everybody hears of a mark.
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
        """Take note of what is so now.

        Args:
            wanted: The pods that are to be captured, by UID, each with its network namespace as
                soon as that is known.
            pods: All pods that there are, by UID, and whether others are told that they are
                captured.
            now: By any clock that never goes back, in seconds.
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
        """Move a pod on as `LIFE` says; nothing if there is no such pod."""
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
        """Note that a pod's new connections go to this agent's Envoy.

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
        """Go by what another agent did meanwhile.

        Args:
            joining: UIDs of the pods whose capture by that one not everybody knows of yet.
        """
        self._unheard = frozenset(joining)
        for uid, record in self._records.items():
            self._change(uid, exempts=None, shown=record.shown and record.row.marked)

    def lost(self, uid: str) -> None:
        """Note that a pod's new connections may go anywhere: its rules are not what they were."""
        self._change(uid, exempts=None)

    def closed(self, uid: str) -> None:
        """Note that nobody listens any more where a pod's connections are led to."""
        record = self._records.get(uid)
        if record is not None:
            self._change(uid, reopened=record.reopened + 1)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Note why pods are not captured as they should be, by UID; all others are."""
        for uid in self._records:
            self._change(uid, refusal=reasons.get(uid, ""))

    def show(self) -> None:
        """Have all marks as they are to be: Envoy has what its pods need for that."""
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
        """Of the same pods, where Envoy is to listen (`PodRecord.listens_at`)."""
        return {uid: self._records[uid].listens_at for uid in self.netns}

    @property
    def lenient(self) -> frozenset[str]:
        """The pods whose plaintext passes whatever the policy says."""
        return self._those(lambda record: record.row.lenient)

    @property
    def joining(self) -> frozenset[str]:
        """Of those `lenient` the ones that are in the mesh, and will not be lenient for long."""
        return self._those(lambda record: record.row.lenient and record.row.wanted)

    @property
    def announced(self) -> frozenset[str]:
        """The pods that others are to be told are captured."""
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
        """The pods whose new connections are led to Envoy."""
        return self._those(lambda record: record.row.redirected)

    @property
    def led_here(self) -> Mapping[str, Path]:
        """Network namespaces of those that are led to this agent's Envoy, by UID."""
        return {
            uid: record.netns
            for uid, record in self._records.items()
            if record.row.redirected and record.exempts is not None and record.netns is not None
        }

    @property
    def led_elsewhere(self) -> frozenset[str]:
        """Of those the ones that are led to another agent's Envoy."""
        return self._those(lambda record: record.row.redirected and record.exempts is None)

    @property
    def secured(self) -> Mapping[str, Path]:
        """The pods that are held to the policy and known to be, with their network namespaces."""
        return {uid: netns for uid, netns in self.netns.items() if self._records[uid].is_secured}

    @property
    def wanted(self) -> frozenset[str]:
        """The pods that are captured to stay, or are to be."""
        return self._those(lambda record: record.row.wanted)

    def due(self, action: Action) -> frozenset[str]:
        """The pods to which something is to be done."""
        return self._those(lambda record: record.row.action is action)

    def exempting(self, *, probes: bool) -> frozenset[str]:
        """The pods whose rules, by this agent, exempt probes or don't."""
        return self._those(lambda record: record.exempts is probes)

    @property
    def next_change(self) -> float | None:
        """When time alone will have changed something; None if it won't."""
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
