"""Where the page puts workloads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.ui.samples import audit, pair, why

from troth.ui.graph import Graph, graph_of
from troth.ui.layout import COLUMN, ROW, placed

NAMES = st.sampled_from([f"{area}/{name}" for area in "abc" for name in "tuvwxyz"])


def graph(*calls: tuple[str, str]) -> Graph:
    names = sorted({name for call in calls for name in call})
    pairs = (pair(source, destination, tunnel=1) for source, destination in sorted(set(calls)))
    return placed(graph_of(audit(*pairs, workloads=tuple(names)), why()))


@given(st.lists(st.tuples(NAMES, NAMES), max_size=40))
def test_no_two_workloads_are_in_each_others_way(calls: list[tuple[str, str]]) -> None:
    places = [(each.x, each.y) for each in graph(*calls).vertices]
    for number, (x, y) in enumerate(places):
        assert all(
            abs(x - other[0]) >= COLUMN or abs(y - other[1]) >= ROW for other in places[:number]
        )


@given(st.lists(st.tuples(NAMES, NAMES), max_size=40))
def test_each_workload_is_inside_its_namespace_and_no_two_of_these_overlap(
    calls: list[tuple[str, str]],
) -> None:
    whole = graph(*calls)
    areas = {area.name: area for area in whole.areas}
    for vertex in whole.vertices:
        area = areas[vertex.area]
        assert area.x < vertex.x < area.x + area.width
        assert area.y < vertex.y < area.y + area.height
        assert area.x + area.width <= whole.width
        assert area.y + area.height <= whole.height
    for one in whole.areas:
        for other in whole.areas:
            apart = (
                one.x + one.width <= other.x
                or other.x + other.width <= one.x
                or one.y + one.height <= other.y
                or other.y + other.height <= one.y
            )
            assert one is other or apart


@given(st.lists(st.tuples(NAMES, NAMES), max_size=40), st.randoms())
def test_a_graph_that_is_drawn_again_does_not_jump(
    calls: list[tuple[str, str]], random: object
) -> None:
    again = list(calls)
    random.shuffle(again)  # type: ignore[attr-defined]  # hypothesis' Random
    assert graph(*calls) == graph(*again)


def test_callers_stand_left_of_what_they_call() -> None:
    x = {each.key: each.x for each in graph(("a/web", "a/api"), ("a/api", "b/db")).vertices}
    assert x["a/web"] < x["a/api"] < x["b/db"]


def test_those_that_call_in_a_circle_share_a_column() -> None:
    x = {each.key: each.x for each in graph(("a/one", "a/two"), ("a/two", "a/one")).vertices}
    assert x["a/one"] == x["a/two"]


def test_a_mesh_without_workloads_has_an_empty_picture() -> None:
    assert (graph().width, graph().height) == (0, 0)


def test_namespaces_that_all_call_each_other_make_no_tower() -> None:
    names = [f"n{number}/app" for number in range(25)]
    whole = graph(*zip(names, [*names[1:], names[0]], strict=True))
    assert 1 / 3 < whole.width / whole.height < 3
