"""What the controller shows to Prometheus."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from troth.controller.run import ControllerMetrics
from troth.controller.work import LeaderFigures

FIGURES = LeaderFigures(
    policies=3, refused_policies=1, enforced_policies=2, nodes=37, troubled_nodes=4
)


def scraped(metrics: ControllerMetrics) -> dict[str, float]:
    """The samples, each by its name and its labels' values."""
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.page("").body.decode())
        for sample in family.samples
    }


def test_answers_are_counted_by_outcome_and_reason() -> None:
    metrics = ControllerMetrics(lambda: None)
    for _ in range(2):
        metrics.answered("signed", "PodOnNode")
    metrics.answered("denied", "NoPodOnNode")
    found = scraped(metrics)
    assert found["troth_certificate_requests_total signed PodOnNode"] == 2
    assert found["troth_certificate_requests_total denied NoPodOnNode"] == 1


def test_who_leads_shows_what_it_knows() -> None:
    found = scraped(ControllerMetrics(lambda: FIGURES))
    assert found == {
        "troth_leading": 1,
        "troth_policies": 3,
        "troth_refused_policies": 1,
        "troth_enforced_policies": 2,
        "troth_nodes": 37,
        "troth_troubled_nodes": 4,
    }


def test_who_does_not_lead_shows_no_more_than_that() -> None:
    assert scraped(ControllerMetrics(lambda: None)) == {"troth_leading": 0}
