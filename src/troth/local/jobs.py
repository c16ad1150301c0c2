"""Which pods of Jobs and CronJobs there are: by what has become of those before them.

Pure but for its memory: it is told the time and how the pods are, and says which there should be.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from troth.control.messages import JobReport, JobState
from troth.errors import Problem
from troth.local.plan import MOST_AT_ONCE
from troth.manifests.workloads import Concurrency, EnvVar, PodTemplate, RestartPolicy
from troth.mesh.model import PodPhase
from troth.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.manifests.collect import Manifests
    from troth.manifests.workloads import Container, CronSpec, JobSpec, Workload

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 60.0
"""Less than the 10 s to 6 min of a cluster, because somebody is waiting at a terminal."""

_INDEX = "batch.kubernetes.io/job-completion-index"
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = 5


class SeenPod(NamedTuple):
    """How a pod is.

    Attributes:
        template: What it runs, by which one that is to be replaced is told from the next.
        phase: Its phase.
        restarts: How often its containers were started again.
    """

    template: PodTemplate
    phase: PodPhase
    restarts: int = 0


class JobPods(msgspec.Struct, frozen=True, kw_only=True):
    """What Jobs and CronJobs ask for at one moment.

    Attributes:
        pods: Those that should be there, ended ones too.
        problems: What is wrong with schedules.
        blockers: Why a Job is not done and won't be, by its name, or what it waits for.
        notices: What has just happened to a Job.
        jobs: All of them.
        due: When this changes though nothing happens; None if it doesn't.
    """

    pods: tuple[PodTemplate, ...] = ()
    problems: tuple[Problem, ...] = ()
    blockers: Mapping[str, str] = {}
    notices: tuple[str, ...] = ()
    jobs: tuple[JobReport, ...] = ()
    due: datetime | None = None


def schedule_flaw(spec: CronSpec) -> str:
    """Why a schedule or its time zone can't be understood; empty if it can."""
    try:
        _next_run(spec, datetime.now(UTC))
    except (CronSimError, StopIteration) as error:
        return str(error).lower() or "never comes"
    except (KeyError, OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
        return f"time zone {spec.time_zone!r} is not known"
    return ""


def _next_run(spec: CronSpec, after: datetime) -> datetime:
    schedule = _MACROS.get(spec.schedule.strip(), spec.schedule).replace("?", "*")
    if len(schedule.split()) != _FIELDS:
        raise CronSimError("it needs five fields")
    zone = ZoneInfo(spec.time_zone) if spec.time_zone else None
    return next(CronSim(schedule, after.astimezone(zone))).astimezone(UTC)


class Jobs:
    """All Jobs of a mesh, and those that its CronJobs have made."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        self._crons: dict[str, _Cron] = {}

    def observe(self, manifests: Manifests, pods: Mapping[str, SeenPod], now: datetime) -> JobPods:
        """What there should be.

        Args:
            manifests: What is written.
            pods: The pods that there are, by ``NAMESPACE/NAME``.
            now: The time, UTC.
        """
        written = {key: each for key, each in manifests.workloads.items() if each.job}
        problems = []
        jobs: dict[str, _Job] = {}
        for key, workload in written.items():
            if workload.cron is None:
                jobs[key] = self._job(key, workload, workload.name, now)
            else:
                cron = self._crons.setdefault(key, _Cron(now))
                if flaw := schedule_flaw(workload.cron):
                    problems.append(_bad_schedule(workload, workload.cron.schedule, flaw))
                    cron.due = None
                else:
                    cron.observe(workload, now)
                for name in cron.runs:
                    run = f"{key} {name}"
                    jobs[run] = self._job(run, workload, name, now)
        self._crons = {key: each for key, each in self._crons.items() if key in written}
        self._jobs = jobs
        notices = [text for job in jobs.values() for text in job.observe(pods, now)]
        for key, cron in self._crons.items():
            runs = {name: jobs[f"{key} {name}"] for name in cron.runs if f"{key} {name}" in jobs}
            for name in cron.prune(written[key].cron, runs):
                del jobs[f"{key} {name}"]
        dues = [each for job in jobs.values() if (each := job.due(now))]
        dues += [each.due for each in self._crons.values() if each.due]
        return JobPods(
            pods=tuple(pod for job in jobs.values() for pod in job.pods(now)),
            problems=tuple(problems),
            blockers={job.key: text for job in jobs.values() if (text := job.blocker(now))},
            notices=tuple(notices),
            jobs=tuple(job.report for job in jobs.values()),
            due=min(dues, default=None),
        )

    def _job(self, key: str, workload: Workload, name: str, now: datetime) -> _Job:
        """The Job of this name; another one if its pods would be other ones now."""
        known = self._jobs.get(key)
        if known is not None and (workload.cron or known.makes(workload)):
            if workload.cron is None:
                known.workload = workload
            return known
        return _Job(workload, name, now)


class _Cron:
    """When a CronJob has made Jobs, and makes the next."""

    def __init__(self, since: datetime) -> None:
        self._since = since
        self.due: datetime | None = None
        self.runs: list[str] = []
        self._active: frozenset[str] = frozenset()

    def observe(self, workload: Workload, now: datetime) -> None:
        """Make the Job whose time has come: of several that were missed, the last."""
        spec = workload.cron
        assert spec is not None  # noqa: S101 - a CronJob's
        at = None
        while (following := _next_run(spec, self._since)) <= now:
            at = self._since = following
        self.due = following
        late = spec.starting_deadline
        if at is None or spec.suspended:
            return
        if late is not None and now - at > timedelta(seconds=late):
            return
        if self._active and spec.concurrency is Concurrency.FORBID:
            return
        if spec.concurrency is Concurrency.REPLACE:
            self.runs = [each for each in self.runs if each not in self._active]
        self.runs.append(f"{workload.name}-{int(at.timestamp()) // 60}")

    def prune(self, spec: CronSpec | None, jobs: Mapping[str, _Job]) -> Iterator[str]:
        """Forget the oldest Jobs that have ended, and say which."""
        assert spec is not None  # noqa: S101 - a CronJob's
        self._active = frozenset(name for name, job in jobs.items() if not job.is_over)
        for failed, kept in ((False, spec.kept_successful), (True, spec.kept_failed)):
            over = [n for n in self.runs if n in jobs and jobs[n].is_over]
            ended = [name for name in over if bool(jobs[name].failure) is failed]
            for name in ended[: max(len(ended) - kept, 0)]:
                self.runs.remove(name)
                yield name


class _Try(msgspec.Struct):
    """One pod of a Job."""

    template: PodTemplate
    index: int
    phase: PodPhase = PodPhase.PENDING
    restarts: int = 0

    @property
    def is_active(self) -> bool:
        return not self.phase.is_final


class _Job:
    """One Job from its start to its end, and what is kept of it."""

    def __init__(self, workload: Workload, name: str, now: datetime) -> None:
        self.workload = workload
        self.failure = ""
        self._name = name
        self._started = now
        self._ended: datetime | None = None
        self._tries: list[_Try] = []
        self._backoff = Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        self._failures = 0
        self._not_before = now

    @property
    def key(self) -> str:
        """``NAMESPACE/NAME``."""
        return f"{self.workload.namespace}/{self._name}"

    @property
    def is_over(self) -> bool:
        """Whether it has succeeded or failed for good."""
        return self._ended is not None

    @property
    def report(self) -> JobReport:
        """How far it is."""
        over = JobState.FAILED if self.failure else JobState.COMPLETE
        going = JobState.SUSPENDED if self._spec.suspended else JobState.RUNNING
        return JobReport(
            namespace=self.workload.namespace,
            name=self._name,
            cron_job=self.workload.name if self.workload.cron else "",
            state=over if self.is_over else going,
            message=self.failure,
        )

    def makes(self, workload: Workload) -> bool:
        """Whether its pods are those of this manifest."""
        ours, theirs = self.workload, workload
        if ours.job is None or theirs.job is None or ours.job.indexed != theirs.job.indexed:
            return False
        return ours.template == msgspec.structs.replace(
            theirs.template, location=ours.template.location
        )

    def observe(self, pods: Mapping[str, SeenPod], now: datetime) -> Iterator[str]:
        """Take note of what has become of its pods; yields what there is to say of it."""
        for each in self._tries:
            seen = pods.get(f"{each.template.namespace}/{each.template.name}")
            if seen is not None and seen.template == each.template:
                each.restarts = seen.restarts
                if each.is_active:
                    each.phase = seen.phase
        failures = sum(each.phase is PodPhase.FAILED for each in self._tries)
        if failures > self._failures:
            self._failures = failures
            self._not_before = now + timedelta(seconds=self._backoff.next())
        if self.is_over:
            return
        spec = self._spec
        self.failure = self._failure(spec, now)
        if self.failure or self._is_complete(spec):
            self._ended = now
            what = f"failed: {self.failure}" if self.failure else "complete"
            yield f"Job {self.key}: {what}"
            return
        self._start_more(spec, now)

    def pods(self, now: datetime) -> Iterator[PodTemplate]:
        """What there should be: what runs, and what has ended and is kept for its logs."""
        kept = self._spec.kept
        if self._ended and kept is not None and now >= self._ended + timedelta(seconds=kept):
            return
        for each in self._tries:
            if not each.is_active or not (self.is_over or self._spec.suspended):
                yield each.template

    def blocker(self, now: datetime) -> str:
        """Why it is not done and won't be, or what it waits for; empty if it is on its way."""
        if self.failure:
            return f"the Job has failed: {self.failure}"
        if not self.is_over and now < self._not_before and self._failures:
            return "a pod of the Job has failed and is tried again"
        return ""

    def due(self, now: datetime) -> datetime | None:
        """When something is to be done though nothing happens."""
        if self._ended is not None:
            kept = self._spec.kept
            gone = self._ended + timedelta(seconds=kept) if kept is not None else None
            return gone if gone and gone > now else None
        dues = [self._not_before] if self._not_before > now else []
        if self._spec.deadline is not None:
            dues.append(self._started + timedelta(seconds=self._spec.deadline))
        return min(dues, default=None)

    @property
    def _spec(self) -> JobSpec:
        assert self.workload.job is not None  # noqa: S101 - a Job's
        return self.workload.job

    def _failure(self, spec: JobSpec, now: datetime) -> str:
        if spec.deadline is not None and now >= self._started + timedelta(seconds=spec.deadline):
            return f"DeadlineExceeded: it took longer than {spec.deadline} s"
        again = self.workload.template.restart_policy is RestartPolicy.ON_FAILURE
        restarts = sum(each.restarts for each in self._tries if each.is_active) if again else 0
        most = spec.backoff_limit
        if self._failures > most or (restarts and restarts >= most):
            return f"BackoffLimitExceeded: it failed more often than backoffLimit, {most}"
        return ""

    def _is_complete(self, spec: JobSpec) -> bool:
        succeeded = self._succeeded()
        if spec.indexed or spec.completions is not None:
            return len(succeeded) >= (spec.completions or 0)
        return bool(succeeded) and not any(each.is_active for each in self._tries)

    def _succeeded(self) -> list[int]:
        return [each.index for each in self._tries if each.phase is PodPhase.SUCCEEDED]

    def _start_more(self, spec: JobSpec, now: datetime) -> None:
        if spec.suspended:
            self._tries = [each for each in self._tries if not each.is_active]
            return
        if now < self._not_before:
            return
        succeeded = self._succeeded()
        active = [each.index for each in self._tries if each.is_active]
        parallelism = min(spec.parallelism, MOST_AT_ONCE)
        if spec.completions is None:  # a queue of work: one that succeeds has found it empty
            wanted = 0 if succeeded else parallelism - len(active)
        else:
            left = spec.completions - len(succeeded) - len(active)
            wanted = min(parallelism - len(active), left)
        taken = {*succeeded, *active}
        for _ in range(wanted):
            index = next(i for i in range(len(taken) + 1) if i not in taken)
            taken.add(index)
            self._tries.append(_Try(self._template(index, indexed=spec.indexed), index))

    def _template(self, index: int, *, indexed: bool) -> PodTemplate:
        template = self.workload.template
        job = self._name
        labels = {
            **template.labels,
            "batch.kubernetes.io/job-name": job,
            "job-name": job,
        }
        if not indexed:
            name = f"{job}-{len(self._tries)}"
            return msgspec.structs.replace(template, name=name, labels=labels)
        before = sum(each.index == index for each in self._tries)
        variable = EnvVar(name="JOB_COMPLETION_INDEX", value=str(index))
        return msgspec.structs.replace(
            template,
            name=f"{job}-{index}-{before}" if before else f"{job}-{index}",
            labels=labels | {_INDEX: str(index)},
            annotations={**template.annotations, _INDEX: str(index)},
            hostname=template.hostname or f"{job}-{index}",
            containers=_with(template.containers, variable),
            init_containers=_with(template.init_containers, variable),
        )


def _with(containers: Iterable[Container], variable: EnvVar) -> tuple[Container, ...]:
    return tuple(msgspec.structs.replace(each, env=(*each.env, variable)) for each in containers)


def _bad_schedule(workload: Workload, schedule: str, flaw: str) -> Problem:
    return Problem(
        subject=str(workload),
        path="spec.schedule",
        found=f"is {schedule!r}: {flaw}",
        wanted='write minute, hour, day, month and weekday, such as "*/5 * * * *", or @hourly',
        location=workload.location,
    )
