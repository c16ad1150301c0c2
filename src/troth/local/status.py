"""What a local pod and its containers are doing, in the words of ``PodStatus`` (core/v1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from troth.control.messages import ContainerStatus, State
from troth.manifests.workloads import RestartPolicy
from troth.mesh.model import PodPhase

if TYPE_CHECKING:
    from collections.abc import Sequence


class PodStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``PodStatus``, what troth needs of it.

    Attributes:
        phase: The sum of the containers' states; sidecars' don't count.
        ready: Services may send it connections: every container is ready.
        init_containers: In the order of the manifest.
        containers: In the order of the manifest.
    """

    phase: PodPhase
    ready: bool
    init_containers: tuple[ContainerStatus, ...]
    containers: tuple[ContainerStatus, ...]


def summarize(
    init_containers: Sequence[ContainerStatus],
    containers: Sequence[ContainerStatus],
    policy: RestartPolicy,
) -> PodStatus:
    """The pod's status from its containers'."""
    return PodStatus(
        phase=_phase(init_containers, containers, policy),
        ready=bool(containers)
        and all(each.ready for each in containers)
        and all(each.ready for each in init_containers if each.sidecar),
        init_containers=tuple(init_containers),
        containers=tuple(containers),
    )


def restarts(policy: RestartPolicy, exit_code: int, *, init: bool = False) -> bool:
    """Whether a container that ended with ``exit_code`` is started again.

    An init container that did its work is not, and that of a pod with ``Always`` is retried.
    """
    if policy is RestartPolicy.NEVER:
        return False
    if exit_code == 0:
        return policy is RestartPolicy.ALWAYS and not init
    return True


class Backoff:
    """How long to wait before a container is started again (``CrashLoopBackOff``). In seconds.

    Shorter than the kubelet's 10 s to 5 min, because somebody is waiting at a terminal.

    Args:
        first: The first delay; each one doubles.
        most: The longest delay.
        reset_after: A run of that length makes the next delay the first again.
    """

    def __init__(self, first: float = 1, most: float = 60, reset_after: float = 10) -> None:
        self._first = first
        self._most = most
        self._reset_after = reset_after
        self._next = first

    def after(self, ran_for: float) -> float:
        """The delay after a run of ``ran_for`` seconds."""
        if ran_for >= self._reset_after:
            self._next = self._first
        delay = self._next
        self._next = min(self._next * 2, self._most)
        return delay


def _phase(
    init_containers: Sequence[ContainerStatus],
    containers: Sequence[ContainerStatus],
    policy: RestartPolicy,
) -> PodPhase:
    first = [each for each in init_containers if not each.sidecar]
    if any(_is_over(c, policy, init=True) and c.exit_code for c in first):
        return PodPhase.FAILED
    if all(_is_over(c, policy, init=False) for c in containers):
        failed = any(container.exit_code for container in containers)
        return PodPhase.FAILED if failed else PodPhase.SUCCEEDED
    if any(c.state is State.RUNNING or c.exit_code is not None for c in containers):
        return PodPhase.RUNNING
    return PodPhase.PENDING


def _is_over(container: ContainerStatus, policy: RestartPolicy, *, init: bool) -> bool:
    """Whether it has ended and is not about to be started again."""
    if container.state is not State.TERMINATED or container.exit_code is None:
        return False
    return not restarts(policy, container.exit_code, init=init)
