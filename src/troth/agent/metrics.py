"""The node agent's metrics, by Prometheus' conventions for names and units.

Labels are bounded: ends of connections are workloads of known pods, all else is ``unknown``, and
from `_MOST_SERIES` on new pairs of workloads are counted as ``other``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from troth.agent.proof import Part
from troth.http_server import Page
from troth.traffic.connection import Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric

    from troth.envoy.delta import Nack
    from troth.traffic.connection import Connection, Party


_MOST_SERIES = 2000
_UNKNOWN = "unknown"
_OTHER = "other"
_REPORTERS = {Side.CLIENT: "source", Side.SERVER: "destination"}  # as Istio's metrics have it

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""

# No creation times: all series begin with the agent.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client has no annotation


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's state in numbers, at one moment.

    Attributes:
        generation: Number of the world in force; the newest is ``wanted_generation``.
        captured: How many pods' traffic goes through Envoy.
        not_captured: Pods that should be captured but aren't.
        envoy_connected: Envoy has its configuration stream open.
        envoy_restarts: How often Envoy had to be restarted.
        refused_resources: How many resources Envoy rejects now.
        certificates: Expiry of each identity's certificate, by SPIFFE ID.
        lost_events: How many connection events could not be kept on disk.
        restored: How often something that leads connections to Envoy was put back, by what it was.
    """

    generation: int
    wanted_generation: int
    captured: int
    not_captured: int
    envoy_connected: bool
    envoy_restarts: int
    refused_resources: int
    certificates: Mapping[str, datetime]
    lost_events: int
    restored: Mapping[Part, int]


class NodeMetrics(Collector):
    """Counts what happens on a node, and shows it to Prometheus.

    It hears of connections from the agent, and of ACKs and NACKs as the ADS server's observer.
    """

    def __init__(self) -> None:
        self._figures: Callable[[], Figures] | None = None
        self._connections: Counter[tuple[str, str, str, str, str]] = Counter()
        self._nacks: Counter[str] = Counter()
        self._acks = Histogram(
            "troth_change_to_ack_seconds",
            "Time from a change of the configuration to Envoy's ACK of it.",
            buckets=_BUCKETS,
            registry=None,
        )

    def watch(self, figures: Callable[[], Figures]) -> None:
        """Ask ``figures`` for the state at each scrape."""
        self._figures = figures

    def connection(self, connection: Connection) -> None:
        """Count a connection."""
        reporter = _REPORTERS[connection.side]
        source, destination = _name(connection.source), _name(connection.destination)
        result = (str(connection.outcome), str(connection.reason))
        key = (reporter, source, destination, *result)
        if key not in self._connections and len(self._connections) >= _MOST_SERIES:
            key = (reporter, _OTHER, _OTHER, *result)
        self._connections[key] += connection.count

    def acked(self, type_url: str, names: tuple[str, ...], seconds: float | None) -> None:  # noqa: ARG002 - the observer's protocol
        """Record how long it took Envoy to accept a change."""
        if seconds is not None:
            self._acks.observe(seconds)

    def nacked(self, nack: Nack, seconds: float | None) -> None:  # noqa: ARG002 - the observer's protocol
        """Count a rejection by Envoy."""
        self._nacks[nack.type_url.rpartition(".")[2]] += 1

    def page(self, accept: str) -> Page:
        """The page for a scrape, in the format that its ``Accept`` header requests."""
        encode, content_type = choose_encoder(accept)
        return Page(content_type=content_type, body=encode(self))

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        yield self._connection_counts()
        nacks = CounterMetricFamily(
            "troth_configuration_refusals", "Resources that Envoy has refused.", labels=["type"]
        )
        for kind, count in sorted(self._nacks.items()):
            nacks.add_metric([kind], count)
        yield nacks
        yield from self._acks.collect()
        if self._figures is not None:
            yield from _of_figures(self._figures())

    def _connection_counts(self) -> Metric:
        family = CounterMetricFamily(
            "troth_connections",
            "Connections by who talked to whom and what came of it.",
            labels=["reporter", "source", "destination", "outcome", "reason"],
        )
        for labels, count in sorted(self._connections.items()):
            family.add_metric(labels, count)
        return family


def _of_figures(figures: Figures) -> Iterator[Metric]:
    gauges: tuple[tuple[str, str, float], ...] = (
        (
            "policy_generation",
            "Number of the set of policies, pods and services in force.",
            figures.generation,
        ),
        (
            "policy_generation_wanted",
            "Number of the newest set of policies, pods and services.",
            figures.wanted_generation,
        ),
        ("captured_pods", "Pods whose traffic goes through Envoy.", figures.captured),
        ("uncaptured_pods", "Pods that should be captured and aren't.", figures.not_captured),
        ("envoy_connected", "Whether Envoy has its stream open.", figures.envoy_connected),
        ("refused_resources", "Resources that Envoy refuses now.", figures.refused_resources),
    )
    for name, text, value in gauges:
        yield GaugeMetricFamily(f"troth_{name}", text, value=value)
    yield CounterMetricFamily(
        "troth_envoy_restarts", "How often Envoy was started again.", value=figures.envoy_restarts
    )
    yield CounterMetricFamily(
        "troth_events_lost",
        "Connection events that could not be kept on disk.",
        value=figures.lost_events,
    )
    restored = CounterMetricFamily(
        "troth_capture_restored",
        "How often rules or listeners that others had removed or changed were put back.",
        labels=["part"],
    )
    for part in Part:
        restored.add_metric([part], figures.restored.get(part, 0))
    yield restored
    certificates = GaugeMetricFamily(
        "troth_certificate_not_after_timestamp_seconds",
        "When an identity's certificate expires, in seconds since 1970.",
        labels=["identity"],
    )
    for identity, not_after in sorted(figures.certificates.items()):
        certificates.add_metric([identity], not_after.timestamp())
    yield certificates


def _name(party: Party) -> str:
    return party.workload or _UNKNOWN
