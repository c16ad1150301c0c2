"""How a pod comes into capture and leaves it without losing a connection: pure, time passed in.

Other nodes hear of it only by and by, so there is a time in which some still send plaintext, or
still use the tunnel. Both are served then:

============  =========  ==============  =================================================
stage         announced  new connections what comes without the tunnel
============  =========  ==============  =================================================
preparing     no         not captured    (never reaches Envoy)
announcing    yes        captured        passes, also under STRICT
enforced      yes        captured        as the policy says
leaving       no         captured        passes: the pod is in the mesh no more
draining      no         not captured    passes
============  =========  ==============  =================================================

Only a pod that was in use before its capture is ever *announcing*. One that isn't ready yet has no
clients that could be surprised, and is enforced from the start.

*Announcing* and *leaving* end a grace period after the world says that the pod is captured, or is
no longer; *draining* ends with the last connection, or at a deadline, but not before those have
come who were about to come by the tunnel.
"""

from __future__ import annotations

from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.envoy.limits import CONNECT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from troth.mesh.model import Pod

DRAIN_SECONDS = 600.0
"""How long connections of a released pod may live on; as long as Envoy itself lets them by default.

They are no longer the mesh's, but cutting one amid a request would be the mesh's doing.
"""

LATE_SECONDS = float(CONNECT_SECONDS)
"""How long a released pod is served in any case: so long a client that has begun to connect by the
tunnel may send its first packet again and again, if it gets lost or is dropped.
"""


class Stage(Enum):
    """How far a pod is."""

    PREPARING = auto()
    ANNOUNCING = auto()
    ENFORCED = auto()
    LEAVING = auto()
    DRAINING = auto()


_ANNOUNCED = frozenset({Stage.ANNOUNCING, Stage.ENFORCED})
_WANTED = _ANNOUNCED | {Stage.PREPARING}
_REDIRECTED = _ANNOUNCED | {Stage.LEAVING}
_LEFT = frozenset({Stage.LEAVING, Stage.DRAINING})


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """One pod.

    Attributes:
        in_use: While it is *preparing*: whether it has clients that don't know of its capture.
        until: When its stage ends, as far as that is a matter of time.
    """

    netns: Path
    stage: Stage
    in_use: bool = False
    until: float | None = None


class Enrolment:
    """The pods of a node that are captured, are about to be, or have been.

    Args:
        grace: Seconds within which everybody hears what the world says.
    """

    def __init__(self, *, grace: float) -> None:
        self._grace = grace
        self._pods: dict[str, _State] = {}
        self._unheard: frozenset[str] = frozenset()

    def want(self, wanted: Mapping[str, Path], pods: Mapping[str, Pod], now: float) -> None:
        """Take note of what is so now.

        Args:
            wanted: Network namespaces of the pods that are to be captured, by UID.
            pods: All pods that there are, by UID, and whether others are told that they are
                captured.
            now: By any clock that never goes back, in seconds.
        """
        for uid, state in list(self._pods.items()):
            if uid not in wanted:
                self._unwant(uid, state, pods.get(uid))
        for uid, netns in wanted.items():
            self._want(uid, netns)
        for uid, state in self._pods.items():
            pod = pods.get(uid)
            told = pod is not None and pod.captured
            if state.stage is Stage.PREPARING:
                heard = told and uid not in self._unheard
                in_use = pod is not None and pod.ready and not heard
                self._pods[uid] = msgspec.structs.replace(state, in_use=in_use)
            else:
                self._pods[uid] = self._timed(state, told=told, now=now)

    def adopt(self, uid: str, netns: Path) -> None:
        """Take over a pod that an earlier agent has captured."""
        self._pods.setdefault(uid, _State(netns=netns, stage=Stage.ENFORCED))

    def inherit(self, joining: Collection[str]) -> None:
        """Take over from an earlier agent which pods were `joining`."""
        self._unheard = frozenset(joining)

    def captured(self, uid: str) -> None:
        """Note that a pod is captured; says nothing new of one that was before."""
        state = self._pods.get(uid)
        if state is not None and state.stage is Stage.PREPARING:
            self._move(uid, Stage.ANNOUNCING if state.in_use else Stage.ENFORCED)

    def released(self, uid: str) -> None:
        """Note that a pod that was `to_release` has been."""
        self._move(uid, Stage.DRAINING)

    def forget(self, uid: str) -> None:
        """Note that a pod's last connection has ended, or that its namespace is no more."""
        self._pods.pop(uid, None)

    @property
    def netns(self) -> Mapping[str, Path]:
        """Network namespaces of all pods that need Envoy's listeners, by UID."""
        return {uid: state.netns for uid, state in self._pods.items()}

    @property
    def lenient(self) -> frozenset[str]:
        """The pods whose plaintext passes whatever the policy says."""
        return self.joining | self._in(_LEFT)

    @property
    def joining(self) -> frozenset[str]:
        """Of those `lenient` the ones that are in the mesh, and will not be lenient for long."""
        in_use = {uid for uid, state in self._pods.items() if state.in_use}
        return self._in({Stage.ANNOUNCING}) | in_use

    @property
    def redirected(self) -> frozenset[str]:
        """The pods whose new connections are led to Envoy."""
        return self._in(_REDIRECTED)

    @property
    def announced(self) -> frozenset[str]:
        """The pods that others are to be told are captured."""
        return self._in(_ANNOUNCED)

    @property
    def wanted(self) -> frozenset[str]:
        """The pods that are captured to stay, or are to be."""
        return self._in(_WANTED)

    @property
    def to_capture(self) -> frozenset[str]:
        """The pods that may be captured as soon as Envoy has their listeners."""
        return self._in({Stage.PREPARING})

    def to_release(self, now: float) -> frozenset[str]:
        """The pods whose capture may end."""
        return frozenset(uid for uid in self._in({Stage.LEAVING}) if self._is_over(uid, now))

    @property
    def draining(self) -> frozenset[str]:
        """The pods that only wait for their last connections to end."""
        return self._in({Stage.DRAINING})

    def drained(self, now: float) -> frozenset[str]:
        """Of those `draining` the ones that have waited long enough."""
        return frozenset(uid for uid in self.draining if self._is_over(uid, now))

    def awaiting_nobody(self, now: float) -> frozenset[str]:
        """Of those `draining` the ones to which nobody new comes by the tunnel any more."""
        late = now - LATE_SECONDS + DRAIN_SECONDS
        return frozenset(uid for uid in self.draining if self._is_over(uid, late))

    @property
    def next_change(self) -> float | None:
        """When time alone will have changed something; None if it won't."""
        return min((s.until for s in self._pods.values() if s.until is not None), default=None)

    def _in(self, stages: frozenset[Stage] | set[Stage]) -> frozenset[str]:
        return frozenset(uid for uid, state in self._pods.items() if state.stage in stages)

    def _is_over(self, uid: str, now: float) -> bool:
        until = self._pods[uid].until
        return until is not None and now >= until

    def _move(self, uid: str, stage: Stage) -> None:
        if uid in self._pods:
            self._pods[uid] = _State(netns=self._pods[uid].netns, stage=stage)

    def _want(self, uid: str, netns: Path) -> None:
        state = self._pods.get(uid)
        if state is None or state.netns != netns or state.stage is Stage.DRAINING:
            self._pods[uid] = _State(netns=netns, stage=Stage.PREPARING)
        elif state.stage is Stage.LEAVING:
            self._move(uid, Stage.ANNOUNCING)

    def _unwant(self, uid: str, state: _State, pod: Pod | None) -> None:
        has_ended = pod is None or pod.phase.is_final or not pod.addresses
        if has_ended or state.stage is Stage.PREPARING:
            # Nobody can talk to it any more, or nobody has through Envoy yet.
            del self._pods[uid]
        elif state.stage in _ANNOUNCED:
            self._move(uid, Stage.LEAVING)

    def _timed(self, state: _State, *, told: bool, now: float) -> _State:
        """Let the clock run, and move on from *announcing* in time."""
        match state.stage:
            case Stage.ANNOUNCING | Stage.LEAVING:
                if told is not (state.stage is Stage.ANNOUNCING):
                    return msgspec.structs.replace(state, until=None)
                until = state.until if state.until is not None else now + self._grace
                if state.stage is Stage.ANNOUNCING and now >= until:
                    return _State(netns=state.netns, stage=Stage.ENFORCED)
                return msgspec.structs.replace(state, until=until)
            case Stage.DRAINING if state.until is None:
                return msgspec.structs.replace(state, until=now + DRAIN_SECONDS)
        return state
