from __future__ import annotations

import pytest

from troth.control.messages import ContainerStatus, State
from troth.local.status import Backoff, restarts, summarize
from troth.manifests.workloads import RestartPolicy
from troth.mesh.model import PodPhase

ALWAYS, ON_FAILURE, NEVER = RestartPolicy

WAITING = ContainerStatus(name="c")
RUNNING = ContainerStatus(name="c", state=State.RUNNING, reason="")
READY = ContainerStatus(name="c", state=State.RUNNING, reason="", ready=True)
DONE = ContainerStatus(name="c", state=State.TERMINATED, exit_code=0)
FAILED = ContainerStatus(name="c", state=State.TERMINATED, exit_code=1)
CRASHED = ContainerStatus(name="c", reason="CrashLoopBackOff", exit_code=1)


@pytest.mark.parametrize(
    ("init", "containers", "policy", "phase", "ready"),
    [
        pytest.param([], [WAITING], ALWAYS, PodPhase.PENDING, False, id="nothing started"),
        pytest.param([RUNNING], [WAITING], ALWAYS, PodPhase.PENDING, False, id="init runs"),
        pytest.param([CRASHED], [WAITING], ALWAYS, PodPhase.PENDING, False, id="init is retried"),
        pytest.param([FAILED], [WAITING], NEVER, PodPhase.FAILED, False, id="init failed for good"),
        pytest.param([FAILED], [WAITING], ALWAYS, PodPhase.PENDING, False, id="init just failed"),
        pytest.param([DONE], [RUNNING], ALWAYS, PodPhase.RUNNING, False, id="not ready yet"),
        pytest.param([DONE], [READY], ALWAYS, PodPhase.RUNNING, True, id="ready"),
        pytest.param([], [READY, RUNNING], ALWAYS, PodPhase.RUNNING, False, id="one of two"),
        pytest.param([], [READY, READY], ALWAYS, PodPhase.RUNNING, True, id="both are ready"),
        pytest.param([], [CRASHED], ALWAYS, PodPhase.RUNNING, False, id="crash loop"),
        pytest.param([], [FAILED], ALWAYS, PodPhase.RUNNING, False, id="about to be restarted"),
        pytest.param([], [FAILED], ON_FAILURE, PodPhase.RUNNING, False, id="about to be retried"),
        pytest.param([], [DONE], ON_FAILURE, PodPhase.SUCCEEDED, False, id="done on failure"),
        pytest.param([], [DONE, DONE], NEVER, PodPhase.SUCCEEDED, False, id="all done"),
        pytest.param([], [DONE, FAILED], NEVER, PodPhase.FAILED, False, id="one failed"),
        pytest.param([], [DONE, READY], NEVER, PodPhase.RUNNING, False, id="one still runs"),
    ],
)
def test_a_pods_phase_and_readiness_follow_from_its_containers(
    init: list[ContainerStatus],
    containers: list[ContainerStatus],
    policy: RestartPolicy,
    phase: PodPhase,
    ready: bool,  # noqa: FBT001 - a table's column
) -> None:
    status = summarize(init, containers, policy)
    assert (status.phase, status.ready) == (phase, ready)


@pytest.mark.parametrize(
    ("policy", "code", "main", "init"),
    [
        (ALWAYS, 0, True, False),
        (ALWAYS, 1, True, True),
        (ON_FAILURE, 0, False, False),
        (ON_FAILURE, 1, True, True),
        (NEVER, 0, False, False),
        (NEVER, 1, False, False),
    ],
)
def test_the_restart_policy_decides_who_starts_again(
    policy: RestartPolicy,
    code: int,
    main: bool,  # noqa: FBT001 - a table's column
    init: bool,  # noqa: FBT001 - a table's column
) -> None:
    assert restarts(policy, code) is main
    assert restarts(policy, code, init=True) is init


def test_delays_double_up_to_a_minute() -> None:
    backoff = Backoff()
    assert [backoff.after(0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_good_run_starts_the_delays_over() -> None:
    backoff = Backoff()
    assert [backoff.after(ran) for ran in (0, 0, 9.9, 10, 0)] == [1, 2, 4, 1, 2]
