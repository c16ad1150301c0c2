"""The controller as a process: its election, work, health, metrics and end."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from troth.cluster.contract import CONTROLLER
from troth.controller.leader import LeaderElection
from troth.controller.work import LeaderFigures, Work
from troth.http_server import (
    MOST_HEALTH_CONNECTIONS,
    Page,
    health_pages,
    metrics_pages,
    serve_when_free,
    serving,
)
from troth.kube.client import ApiClient
from troth.kube.config import program_config
from troth.program import configure_logs, run_until_stopped
from troth.sockets import ListenAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightkube import SingleConfig
    from prometheus_client import Metric

    from troth.controller.work import ControllerSettings

_log = structlog.get_logger(__name__)


class ControllerReadiness(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``/readyz``.

    Attributes:
        leading: Whether this replica does the work.
        leader: Who does, if known.
        waiting_for: What it is waiting for, in words; if nothing, it is ready.
        rotation: What the rotation of the root is waiting for.
    """

    leading: bool
    leader: str
    waiting_for: tuple[str, ...] = ()
    rotation: tuple[str, ...] = ()


_MEANINGS = {
    "policies": "PeerAuthentications that are stored.",
    "refused_policies": "PeerAuthentications that can't be used as they are.",
    "enforced_policies": "PeerAuthentications that are in force on every node.",
    "nodes": "Nodes whose agents report.",
    "troubled_nodes": "Nodes whose agents report trouble, can't be understood, or are silent.",
}


class ControllerMetrics(Collector):
    """Counts a replica's answers, and serves that and its figures to Prometheus.

    Args:
        figures: Called at each scrape; returns None while another replica leads.
    """

    def __init__(self, figures: Callable[[], LeaderFigures | None]) -> None:
        self._figures = figures
        self._answers: Counter[tuple[str, str]] = Counter()

    def answered(self, outcome: str, reason: str) -> None:
        """Count the answer to a certificate request; the signer has only a few reasons."""
        self._answers[outcome, reason] += 1

    def page(self, accept: str) -> Page:
        """The page for a scrape, in the format that its ``Accept`` header requests."""
        encode, content_type = choose_encoder(accept)
        return Page(content_type=content_type, body=encode(self))

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        answers = CounterMetricFamily(
            "troth_certificate_requests",
            "Certificate requests by what came of them.",
            labels=["outcome", "reason"],
        )
        for labels, count in sorted(self._answers.items()):
            answers.add_metric(labels, count)
        yield answers
        figures = self._figures()
        yield GaugeMetricFamily(
            "troth_leading", "Whether this replica does the work.", value=figures is not None
        )
        if figures is not None:
            for name, meaning in _MEANINGS.items():
                yield GaugeMetricFamily(f"troth_{name}", meaning, value=getattr(figures, name))


def run_controller(settings: ControllerSettings) -> int:
    """Run the controller of this pod's cluster, or of KUBECONFIG's, until SIGTERM.

    Returns:
        The exit code.

    Raises:
        EnvironmentLackError: No API server is configured, or the port for health is taken.
    """
    configure_logs()
    controller = Controller(program_config(otherwise="set KUBECONFIG"), settings)
    asyncio.run(run_until_stopped(controller.run()))
    return 0


class Controller:
    """One replica of the controller.

    Args:
        config: How to reach the API server, and as whom.
        settings: The controller's.
    """

    def __init__(self, config: SingleConfig, settings: ControllerSettings) -> None:
        self._config = config
        self._settings = settings
        # The host's name is the pod's, for people; the rest makes it unique.
        self.identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self._election: LeaderElection | None = None
        self._work: Work | None = None
        self._metrics = ControllerMetrics(lambda: self._work.figures() if self._work else None)
        self.health_port = 0

    def readiness(self) -> ControllerReadiness:
        """Whether it does its task, and if not, why."""
        election = self._election
        if election is None:
            return ControllerReadiness(leading=False, leader="", waiting_for=("its start",))
        blockers = (election.trouble,) if election.trouble else ()
        if self._work is None:
            return ControllerReadiness(leading=False, leader=election.holder, waiting_for=blockers)
        return ControllerReadiness(
            leading=True,
            leader=election.holder,
            waiting_for=blockers + self._work.waiting_for,
            rotation=self._work.rotation,
        )

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            EnvironmentLackError: The configuration can't be used, or the port is taken.
        """
        settings = self._settings
        client = ApiClient(self._config, field_manager=CONTROLLER)
        self._election = LeaderElection(
            client,
            namespace=settings.namespace,
            name=CONTROLLER,
            identity=self.identity,
            timing=settings.timing,
        )
        _log.info("starting", identity=self.identity, trust_domain=str(settings.rules.trust_domain))

        async def lead() -> None:
            self._work = Work(client, settings, on_answer=self._metrics.answered)
            try:
                await self._work.run()
            finally:
                self._work = None

        try:
            async with (
                serving(
                    ListenAddress(port=settings.health_port),
                    health_pages(self.readiness),
                    most=MOST_HEALTH_CONNECTIONS,
                    remedy="choose another with --health-port",
                ) as port,
                asyncio.TaskGroup() as tasks,
            ):
                self.health_port = port
                if settings.metrics is not None:
                    tasks.create_task(
                        serve_when_free(settings.metrics, metrics_pages(self._metrics.page))
                    )
                await self._election.run(lead)
        finally:
            await client.aclose()
