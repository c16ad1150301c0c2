from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.samples import NOON, connection

from troth.agent.metrics import _MOST_SERIES, Figures, NodeMetrics
from troth.agent.proof import Part
from troth.envoy.delta import Nack
from troth.traffic.connection import Outcome, Party, Reason, Side

if TYPE_CHECKING:
    from collections.abc import Mapping

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
WEB = "spiffe://cluster.local/ns/shop/sa/web"

FIGURES = Figures(
    generation=6,
    wanted_generation=7,
    captured=3,
    not_captured=1,
    envoy_connected=True,
    envoy_restarts=2,
    refused_resources=1,
    certificates={WEB: NOON},
    lost_events=4,
    restored={Part.RULES: 2},
)

CONNECTION = connection(
    outcome=Outcome.REFUSED,
    reason=Reason.PLAINTEXT_TO_STRICT,
    destination=Party(address="10.0.0.2", port=8080, pod="shop/pay-0", workload="shop/pay"),
)

Labels = frozenset[tuple[str, str]]


def scraped(metrics: NodeMetrics) -> Mapping[tuple[str, Labels], float]:
    """What Prometheus would store after a scrape."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.page("").body.decode())
        for sample in family.samples
    }


def value(metrics: NodeMetrics, name: str, **labels: str) -> float | None:
    return scraped(metrics).get((name, frozenset(labels.items())))


def named(name: str) -> Party:
    return Party(address="10.0.0.3", port=1, pod=f"{name}-0", workload=name)


def test_connections_are_counted_by_ends_outcome_and_reason() -> None:
    metrics = NodeMetrics()
    metrics.connection(CONNECTION)
    metrics.connection(CONNECTION)
    metrics.connection(
        msgspec.structs.replace(CONNECTION, source=named("shop/web"), side=Side.CLIENT)
    )
    labels = {
        "destination": "shop/pay",
        "outcome": "refused",
        "reason": "plaintext_to_strict",
    }
    name = "troth_connections_total"
    assert value(metrics, name, reporter="destination", source="unknown", **labels) == 2
    assert value(metrics, name, reporter="source", source="shop/web", **labels) == 1


def test_an_event_that_tells_of_many_connections_counts_as_many() -> None:
    metrics = NodeMetrics()
    metrics.connection(msgspec.structs.replace(CONNECTION, count=40))
    [count] = [v for (name, _), v in scraped(metrics).items() if name == "troth_connections_total"]
    assert count == 40


def test_strangers_do_not_become_labels() -> None:
    metrics = NodeMetrics()
    for n in range(200):
        stranger = Party(address=f"10.9.0.{n}", port=n)
        metrics.connection(msgspec.structs.replace(CONNECTION, source=stranger))
    counts = [v for (name, _), v in scraped(metrics).items() if name == "troth_connections_total"]
    assert counts == [200]


def test_the_number_of_series_is_bounded() -> None:
    metrics = NodeMetrics()
    for n in range(_MOST_SERIES + 100):
        metrics.connection(msgspec.structs.replace(CONNECTION, source=named(f"shop/web{n}")))
    counts = {
        dict(labels)["source"]: v
        for (name, labels), v in scraped(metrics).items()
        if name == "troth_connections_total"
    }
    assert len(counts) == _MOST_SERIES + 1
    assert counts["other"] == 100


def test_acks_are_a_histogram_of_seconds() -> None:
    metrics = NodeMetrics()
    for seconds in (0.005, 0.02, 30.0, None):
        metrics.acked(LISTENER, ("a",), seconds)
    name = "troth_change_to_ack_seconds"
    assert value(metrics, f"{name}_count") == 3
    assert value(metrics, f"{name}_sum") == pytest.approx(30.025)
    assert value(metrics, f"{name}_bucket", le="0.005") == 1
    assert value(metrics, f"{name}_bucket", le="0.025") == 2
    assert value(metrics, f"{name}_bucket", le="10.0") == 2
    assert value(metrics, f"{name}_bucket", le="+Inf") == 3


def test_refusals_of_envoy_are_counted_by_type() -> None:
    metrics = NodeMetrics()
    metrics.nacked(Nack(type_url=LISTENER, name="x", version="1", message="no"), 0.1)
    assert value(metrics, "troth_configuration_refusals_total", type="Listener") == 1


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("troth_policy_generation", {}, 6),
        ("troth_policy_generation_wanted", {}, 7),
        ("troth_captured_pods", {}, 3),
        ("troth_uncaptured_pods", {}, 1),
        ("troth_envoy_connected", {}, 1),
        ("troth_envoy_restarts_total", {}, 2),
        ("troth_refused_resources", {}, 1),
        ("troth_events_lost_total", {}, 4),
        ("troth_capture_restored_total", {"part": "rules"}, 2),
        ("troth_capture_restored_total", {"part": "listeners"}, 0),
        ("troth_certificate_not_after_timestamp_seconds", {"identity": WEB}, NOON.timestamp()),
    ],
)
def test_the_agents_figures_are_asked_for_at_each_scrape(
    name: str, labels: dict[str, str], expected: float
) -> None:
    metrics = NodeMetrics()
    assert value(metrics, name, **labels) is None
    metrics.watch(lambda: FIGURES)
    assert value(metrics, name, **labels) == expected


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version="),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version="),
        ("\x00 nonsense; q=x", "text/plain; version="),
    ],
)
def test_a_scrape_gets_the_format_it_asks_for(accept: str, content_type: str) -> None:
    page = NodeMetrics().page(accept)
    assert page.content_type.startswith(content_type)
    assert page.body.endswith(b"# EOF\n") is ("openmetrics" in content_type)
