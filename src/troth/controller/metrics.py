"""The controller's metrics, by Prometheus' conventions for names and units."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from troth.http_server import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric


class LeaderFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader knows, in numbers.

    Attributes:
        policies: How many PeerAuthentications are stored.
        refused_policies: How many of them can't be used as they are.
        enforced_policies: How many are in force on every node.
        nodes: How many nodes report.
        troubled_nodes: How many of these say that something is amiss, or can't be understood.
    """

    policies: int
    refused_policies: int
    enforced_policies: int
    nodes: int
    troubled_nodes: int


_MEANINGS = {
    "policies": "PeerAuthentications that are stored.",
    "refused_policies": "PeerAuthentications that can't be used as they are.",
    "enforced_policies": "PeerAuthentications that are in force on every node.",
    "nodes": "Nodes whose agents report.",
    "troubled_nodes": "Nodes whose agents say that something is amiss, or can't be understood.",
}


class ControllerMetrics(Collector):
    """Counts what a replica answers, and shows that and what it knows to Prometheus.

    Args:
        figures: Asked at each scrape; None while another replica leads.
    """

    def __init__(self, figures: Callable[[], LeaderFigures | None]) -> None:
        self._figures = figures
        self._answers: Counter[tuple[str, str]] = Counter()

    def answered(self, outcome: str, reason: str) -> None:
        """Count the answer to a certificate request; the reasons are the signer's own few."""
        self._answers[outcome, reason] += 1

    def page(self, accept: str) -> Page:
        """What a scrape gets, in the format that its ``Accept`` header asks for."""
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
