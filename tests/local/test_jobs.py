from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from troth.local.jobs import JobPods, Jobs, SeenPod
from troth.local.plan import MOST_AT_ONCE
from troth.manifests.collect import Manifests
from troth.manifests.workloads import (
    Concurrency,
    Container,
    CronSpec,
    JobSpec,
    PodTemplate,
    RestartPolicy,
    Workload,
)
from troth.mesh.model import PodPhase

NOON = datetime(2026, 3, 2, 12, 0, 30, tzinfo=UTC)
DONE, BROKEN, RUNS = PodPhase.SUCCEEDED, PodPhase.FAILED, PodPhase.RUNNING


def _template(**changes: Any) -> PodTemplate:
    made = PodTemplate(
        namespace="shop",
        name="work",
        containers=(Container(name="app", command=("work",)),),
        restart_policy=RestartPolicy.NEVER,
        owner="work",
        owner_kind="Job",
    )
    return msgspec.structs.replace(made, **changes)


class _World:
    """Jobs, the time, and how their pods are."""

    def __init__(self, job: JobSpec, cron: CronSpec | None = None, **changes: Any) -> None:
        self.jobs = Jobs()
        self.now = NOON
        self.pods: dict[str, SeenPod] = {}
        self.workload = Workload(
            kind="CronJob" if cron else "Job",
            namespace="shop",
            name="work",
            template=_template(**changes),
            job=job,
            cron=cron,
        )

    def look(self, *, seconds: float = 0, **phases: PodPhase) -> JobPods:
        """What there should be after so many seconds, with pods (``work_0``) in these phases."""
        self.now += timedelta(seconds=seconds)
        for name, phase in phases.items():
            key = f"shop/{name.replace('_', '-')}"
            self.pods[key] = self.pods[key]._replace(phase=phase)
        found = self.jobs.observe(
            Manifests(workloads={str(self.workload): self.workload}), self.pods, self.now
        )
        self.pods = {
            key: self.pods.get(key, SeenPod(each, RUNS))
            for each in found.pods
            for key in (f"shop/{each.name}",)
        }
        return found


def _names(found: JobPods) -> list[str]:
    return [each.name for each in found.pods]


@pytest.mark.parametrize("completions", [None, 20_000])
def test_a_job_has_no_more_pods_at_a_time_than_any_machine_runs(completions: int | None) -> None:
    world = _World(JobSpec(completions=completions, parallelism=20_000))
    assert len(world.look().pods) == MOST_AT_ONCE


def test_a_job_runs_as_many_at_a_time_as_it_says_until_enough_have_succeeded() -> None:
    world = _World(JobSpec(completions=3, parallelism=2))
    assert _names(world.look()) == ["work-0", "work-1"]
    assert _names(world.look(work_0=DONE)) == ["work-0", "work-1", "work-2"]
    last = world.look(work_1=DONE, work_2=DONE)
    assert last.notices == ("Job shop/work: complete",)
    assert _names(last) == ["work-0", "work-1", "work-2"]
    assert last.blockers == {}


def test_a_failed_pod_is_followed_by_another_after_a_moment() -> None:
    world = _World(JobSpec())
    world.look()
    failed = world.look(work_0=BROKEN)
    assert _names(failed) == ["work-0"]
    assert failed.due == world.now + timedelta(seconds=1)
    assert "tried again" in failed.blockers["shop/work"]
    assert _names(world.look(seconds=1)) == ["work-0", "work-1"]


def test_a_job_fails_when_its_pods_fail_more_often_than_it_bears() -> None:
    world = _World(JobSpec(backoff_limit=0, parallelism=2, completions=2))
    world.look()
    failed = world.look(work_0=BROKEN)
    assert "BackoffLimitExceeded" in failed.blockers["shop/work"]
    assert _names(failed) == ["work-0"]  # what still ran is ended


def test_restarts_in_the_pod_count_where_it_is_restarted_there() -> None:
    world = _World(JobSpec(backoff_limit=2), restart_policy=RestartPolicy.ON_FAILURE)
    world.look()
    world.pods["shop/work-0"] = world.pods["shop/work-0"]._replace(restarts=1)
    assert world.look().blockers == {}
    world.pods["shop/work-0"] = world.pods["shop/work-0"]._replace(restarts=2)
    assert "BackoffLimitExceeded" in world.look().blockers["shop/work"]


def test_a_job_that_takes_too_long_is_ended() -> None:
    world = _World(JobSpec(deadline=60))
    assert world.look().due == NOON + timedelta(seconds=60)
    late = world.look(seconds=60)
    assert late.pods == ()
    assert "DeadlineExceeded" in late.blockers["shop/work"]


def test_each_index_has_to_succeed_and_knows_its_number() -> None:
    world = _World(JobSpec(completions=2, parallelism=2, indexed=True))
    first, second = world.look().pods
    assert (first.name, first.hostname) == ("work-0", "work-0")
    assert [(each.name, each.value) for each in second.containers[0].env] == [
        ("JOB_COMPLETION_INDEX", "1")
    ]
    world.look(work_0=DONE, work_1=BROKEN)
    assert _names(world.look(seconds=1)) == ["work-0", "work-1", "work-1-1"]
    assert world.look(work_1_1=DONE).notices == ("Job shop/work: complete",)


def test_of_a_queue_of_work_one_success_lets_the_others_end() -> None:
    world = _World(JobSpec(completions=None, parallelism=2))
    assert _names(world.look()) == ["work-0", "work-1"]
    assert _names(world.look(work_0=DONE)) == ["work-0", "work-1"]
    assert world.look(work_1=DONE).notices == ("Job shop/work: complete",)


def test_a_suspended_job_has_no_pods_until_it_goes_on() -> None:
    world = _World(JobSpec())
    world.look()
    going = world.workload
    world.workload = msgspec.structs.replace(going, job=JobSpec(suspended=True))
    assert world.look().pods == ()
    world.workload = going
    assert _names(world.look()) == ["work-0"]


def test_the_pods_of_a_job_that_is_over_go_when_their_time_has_come() -> None:
    world = _World(JobSpec(kept=5))
    world.look()
    assert world.look(work_0=DONE).due == NOON + timedelta(seconds=5)
    assert world.look(seconds=5).pods == ()


def test_a_job_with_another_template_begins_again() -> None:
    world = _World(JobSpec())
    world.look()
    world.look(work_0=DONE)
    world.workload = msgspec.structs.replace(world.workload, template=_template(hostname="other"))
    (pod,) = world.look().pods
    assert pod.hostname == "other"
    assert world.look().notices == ()  # the end of the one before says nothing of this one


def test_a_cron_job_makes_a_job_when_its_time_comes() -> None:
    world = _World(JobSpec(), CronSpec(schedule="*/5 * * * *"))
    first = world.look()
    assert (first.pods, first.due) == ((), NOON.replace(minute=5, second=0))
    assert _names(world.look(seconds=300)) == [f"work-{int(NOON.timestamp()) // 60 + 5}-0"]


def test_of_several_times_that_were_missed_the_last_one_counts() -> None:
    world = _World(JobSpec(), CronSpec(schedule="* * * * *"))
    world.look()
    assert len(world.look(seconds=600).pods) == 1


def test_a_run_that_is_too_late_is_left_out() -> None:
    world = _World(JobSpec(), CronSpec(schedule="*/5 * * * *", starting_deadline=10))
    world.look()
    assert world.look(seconds=300).pods == ()


@pytest.mark.parametrize(
    ("concurrency", "runs"),
    [(Concurrency.ALLOW, 2), (Concurrency.FORBID, 1), (Concurrency.REPLACE, 1)],
)
def test_what_becomes_of_a_run_while_another_goes_on(concurrency: Concurrency, runs: int) -> None:
    world = _World(JobSpec(), CronSpec(schedule="* * * * *", concurrency=concurrency))
    world.look()
    (first,) = world.look(seconds=60).pods
    second = world.look(seconds=60)
    assert len(second.pods) == runs
    assert (first in second.pods) is (concurrency is not Concurrency.REPLACE)


def test_of_jobs_that_have_ended_so_many_are_kept() -> None:
    world = _World(JobSpec(), CronSpec(schedule="* * * * *", kept_successful=1))
    found = world.look()
    for _ in range(3):
        world.look(seconds=60)
        world.pods = {key: seen._replace(phase=DONE) for key, seen in world.pods.items()}
        found = world.look()
    assert len(found.pods) == 1


@pytest.mark.parametrize(
    ("spec", "flaw"),
    [
        ({"schedule": "* * * *"}, "it needs five fields"),
        ({"schedule": "0 * * * * *"}, "it needs five fields"),
        ({"schedule": "61 * * * *"}, "bad minute"),
        ({"schedule": "@often"}, "it needs five fields"),
        ({"schedule": "@hourly", "time_zone": "Mars/Base"}, "time zone 'Mars/Base' is not known"),
    ],
)
def test_a_schedule_that_cannot_be_understood_is_named(spec: dict[str, Any], flaw: str) -> None:
    (problem,) = _World(JobSpec(), CronSpec(**spec)).look().problems
    assert problem.path == "spec.schedule"
    assert flaw in problem.found


def test_a_schedule_counts_in_its_time_zone() -> None:
    world = _World(JobSpec(), CronSpec(schedule="0 9 * * *", time_zone="Asia/Tokyo"))
    assert world.look().due == datetime(2026, 3, 3, 0, 0, tzinfo=UTC)
