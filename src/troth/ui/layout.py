"""Places for a graph's vertices: callers left, called right, each namespace a rectangle.

Columns are the topological generations of the graph without its cycles (networkx). A graph with the
same vertices and edges gets the same places, so a page that is drawn again doesn't jump.
"""

from __future__ import annotations

from collections import defaultdict
from math import sqrt
from typing import TYPE_CHECKING

import msgspec
import networkx as nx

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from troth.ui.graph import Area, Graph, Vertex

COLUMN, ROW = 200.0, 64.0
"""Between the middles of two vertices; a vertex is smaller than that."""

_PADDING, _HEADING, _GAP = 24.0, 30.0, 48.0
_MOST_ROWS = 12
"""Of one column of an area: more vertices take another one beside it."""


def placed(graph: Graph) -> Graph:
    """The same graph with places for its vertices and areas."""
    area_of = {vertex.key: vertex.area for vertex in graph.vertices}
    calls = [(edge.source, edge.destination) for edge in graph.edges]
    across = [(area_of[a], area_of[b]) for a, b in calls]
    layers = _layers((area.name for area in graph.areas), across)
    inside = {
        area.name: _inside(
            [vertex for vertex in graph.vertices if vertex.area == area.name],
            [call for call in calls if area_of[call[0]] == area_of[call[1]] == area.name],
        )
        for area in graph.areas
    }
    sizes = {name: _size(columns, rows) for name, (_, columns, rows) in inside.items()}
    tallest = max(sqrt(sum(w * h for w, h in sizes.values())), *(h for _, h in sizes.values()), 0.0)
    areas: dict[str, Area] = {}
    left = width = height = 0.0
    for column in _columns(graph.areas, layers, sizes, tallest):
        top, widest = 0.0, 0.0
        for area in column:
            wide, high = sizes[area.name]
            areas[area.name] = msgspec.structs.replace(area, x=left, y=top, width=wide, height=high)
            top += high + _GAP
            widest = max(widest, wide)
        left += widest + 2 * _GAP
        width, height = left - 2 * _GAP, max(height, top - _GAP)
    return msgspec.structs.replace(
        graph,
        vertices=tuple(
            _at(vertex, areas[vertex.area], *inside[vertex.area][0][vertex.key])
            for vertex in graph.vertices
        ),
        areas=tuple(areas[area.name] for area in graph.areas),
        width=width,
        height=height,
    )


def _at(vertex: Vertex, area: Area, column: int, row: int) -> Vertex:
    return msgspec.structs.replace(
        vertex,
        x=area.x + _PADDING + (column + 0.5) * COLUMN,
        y=area.y + _HEADING + (row + 0.5) * ROW,
    )


def _size(columns: int, rows: int) -> tuple[float, float]:
    return columns * COLUMN + 2 * _PADDING, rows * ROW + _HEADING + _PADDING


def _columns(
    areas: Iterable[Area],
    layers: Mapping[Hashable, int],
    sizes: Mapping[str, tuple[float, float]],
    tallest: float,
) -> list[list[Area]]:
    """The areas of each layer; a layer that would be taller than that takes several columns."""
    columns: list[list[Area]] = []
    height, layer = 0.0, -1
    for area in sorted(areas, key=lambda area: layers[area.name]):
        height += sizes[area.name][1] + _GAP
        if layers[area.name] != layer or height - _GAP > tallest:
            columns.append([])
            height, layer = sizes[area.name][1] + _GAP, layers[area.name]
        columns[-1].append(area)
    return columns


def _inside(
    vertices: list[Vertex], calls: list[tuple[str, str]]
) -> tuple[dict[str, tuple[int, int]], int, int]:
    """Column and row of each vertex of an area, and how many of both there are."""
    layers = _layers((vertex.key for vertex in vertices), calls)
    callers = defaultdict(list)
    for source, destination in calls:
        callers[destination].append(source)
    places: dict[str, tuple[int, int]] = {}
    column = rows = 0
    by_layer = defaultdict(list)
    for vertex in vertices:
        by_layer[layers[vertex.key]].append(vertex.key)
    for layer in sorted(by_layer):
        # Below their callers, so that fewer edges cross.
        keys = sorted(by_layer[layer], key=lambda key: (_mean(places, callers[key]), key))
        for number, key in enumerate(keys):
            further, row = divmod(number, _MOST_ROWS)
            places[key] = (column + further, row)
            rows = max(rows, row + 1)
        column += (len(keys) + _MOST_ROWS - 1) // _MOST_ROWS
    return places, column, rows


def _mean(places: Mapping[str, tuple[int, int]], callers: Iterable[str]) -> float:
    rows = [places[caller][1] for caller in callers if caller in places]
    return sum(rows) / len(rows) if rows else 0.0


def _layers(
    names: Iterable[Hashable], calls: Iterable[tuple[Hashable, Hashable]]
) -> dict[Hashable, int]:
    """The column of each name: the longest way to it. Those that call in a circle share one."""
    graph: nx.DiGraph[Hashable] = nx.DiGraph()
    graph.add_nodes_from(sorted(names, key=str))
    graph.add_edges_from(sorted(calls, key=str))
    circles = nx.condensation(graph)
    return {
        name: layer
        for layer, generation in enumerate(nx.topological_generations(circles))
        for circle in generation
        for name in circles.nodes[circle]["members"]
    }
