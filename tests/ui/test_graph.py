"""What the page shows of what a mesh tells."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.ui.samples import SINCE, audit, pair, refusal, why

from troth.explain.why import NotCaptured
from troth.traffic.connection import Outcome
from troth.ui.graph import OUTSIDE, Passage, graph_of

if TYPE_CHECKING:
    from troth.ui.graph import Edge


def only(edges: tuple[Edge, ...]) -> Edge:
    (edge,) = edges
    return edge


@pytest.mark.parametrize(
    ("counts", "passage"),
    [
        ({"tunnel": 5}, Passage.TUNNEL),
        ({"tunnel": 5, "plaintext": 1}, Passage.PLAINTEXT),
        ({"tunnel": 5, "plaintext": 1, "refused": 1}, Passage.REFUSED),
    ],
)
def test_an_edge_is_as_good_as_the_worst_of_its_connections(
    counts: dict[str, int], passage: Passage
) -> None:
    seen = audit(pair("shop/web", "shop/db", **counts), workloads=("shop/web", "shop/db"))
    assert only(graph_of(seen, why()).edges).passage is passage


def test_why_connections_were_refused_stands_at_their_edge() -> None:
    seen = audit(pair("shop/web", "shop/db", refused=2), workloads=("shop/web", "shop/db"))
    edge = only(graph_of(seen, why(refusal("shop/web", "shop/db"))).edges)
    assert (edge.refused, edge.failed) == (2, 0)
    assert [each.cause for each in edge.refusals] == ["Plaintext."]


def test_connections_that_only_failed_have_an_edge_too() -> None:
    failed = refusal("shop/web", "shop/db", outcome=Outcome.FAILED)
    edge = only(graph_of(audit(workloads=("shop/web", "shop/db")), why(failed)).edges)
    assert (edge.passage, edge.failed, edge.refused) == (Passage.FAILED, 2, 0)


def test_what_was_refused_before_the_time_asked_for_is_left_out() -> None:
    old = refusal("shop/web", "shop/db", last=SINCE - timedelta(seconds=1))
    assert graph_of(audit(workloads=("shop/web", "shop/db")), why(old)).edges == ()


def test_a_client_without_a_name_stands_among_the_addresses() -> None:
    graph = graph_of(
        audit(pair("2001:db8::7", "shop/db", plaintext=1), workloads=("shop/db",)), why()
    )
    stranger = graph.vertices[0]
    assert (stranger.key, stranger.area, stranger.in_mesh) == ("2001:db8::7", OUTSIDE, False)


def test_workloads_outside_the_mesh_are_there_before_they_connect() -> None:
    graph = graph_of(audit(workloads=("shop/db",), outside=("legacy/cron",)), why())
    assert [(each.key, each.in_mesh) for each in graph.vertices] == [
        ("legacy/cron", False),
        ("shop/db", True),
    ]
    assert [area.name for area in graph.areas] == ["legacy", "shop"]


def test_what_is_wrong_with_the_mesh_is_told() -> None:
    missing = msgspec.structs.replace(
        why(), not_captured=(NotCaptured(pod="shop/db-0", why="its node has no agent"),)
    )
    problems = graph_of(audit(workloads=("shop/db",)), missing).problems
    assert problems == ("shop/db-0 is not captured: its node has no agent",)
