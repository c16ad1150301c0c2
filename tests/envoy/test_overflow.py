from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.samples import NOON

from troth.envoy.overflow import COUNTERS, overflows, read_counts
from troth.traffic.connection import ConnectionReport, Outcome, Reason, Side

if TYPE_CHECKING:
    from collections.abc import Mapping

UID = "11111111-2222-3333-4444-555555555555"


def stats(counts: Mapping[str, int]) -> str:
    """As Envoy answers to ``/stats``."""
    return "".join(f"listener.{name}: {count}\n" for name, count in counts.items())


def seen(before: Mapping[str, int], now: Mapping[str, int]) -> list[ConnectionReport]:
    return list(overflows(read_counts(stats(before)), read_counts(stats(now)), NOON))


@pytest.mark.parametrize(
    ("name", "side", "reason", "detail"),
    [
        pytest.param(
            f"tunnel-in|{UID}.downstream_cx_overflow",
            Side.SERVER,
            Reason.TOO_MANY_CONNECTIONS,
            "that come by the tunnel",
            id="tunnel",
        ),
        pytest.param(
            f"plain-in|{UID}.downstream_cx_overflow",
            Side.SERVER,
            Reason.TOO_MANY_CONNECTIONS,
            "that come in plaintext",
            id="plaintext",
        ),
        pytest.param(
            f"outbound|{UID}.downstream_cx_overflow",
            Side.CLIENT,
            Reason.TOO_MANY_CONNECTIONS,
            "that leave it",
            id="outbound",
        ),
        pytest.param(
            f"plain-in|{UID}.downstream_global_cx_overflow",
            Side.SERVER,
            Reason.NODE_OVERLOADED,
            "had as many connections open as its limit on open files allows",
            id="all connections of the node",
        ),
        pytest.param(
            f"outbound|{UID}.downstream_cx_overload_reject",
            Side.CLIENT,
            Reason.NODE_OVERLOADED,
            "had used nearly all the memory that it may",
            id="memory",
        ),
    ],
)
def test_a_counter_says_whose_connections_were_too_many_and_of_what(
    name: str, side: Side, reason: Reason, detail: str
) -> None:
    [overflow] = seen({}, {name: 3})
    assert overflow == ConnectionReport.of_count(
        UID,
        time=NOON,
        count=3,
        outcome=Outcome.FAILED,
        reason=reason,
        side=side,
        detail=detail,
    )
    assert name.endswith(COUNTERS)


@pytest.mark.parametrize(
    ("before", "now", "news"),
    [
        pytest.param(5, 5, [], id="nothing new"),
        pytest.param(5, 8, [3], id="more"),
        pytest.param(5, 2, [2], id="another Envoy began at zero"),
        pytest.param(5, 0, [], id="another Envoy, nothing yet"),
    ],
)
def test_only_what_is_new_is_told(before: int, now: int, news: list[int]) -> None:
    name = f"plain-in|{UID}.downstream_cx_overflow"
    assert [each.connection.count for each in seen({name: before}, {name: now})] == news


@pytest.mark.parametrize(
    "line",
    [
        "",
        "cluster.x.upstream_cx_overflow: 3",
        f"listener.plain-in|{UID}.downstream_cx_total: 3",
        f"listener.other|{UID}.downstream_cx_overflow: 3",
        f"listener.plain-in|{UID}.downstream_cx_overflow: many",
        f"listener.plain-in|{UID}.downstream_cx_overflow: 3 more",
        "<html>",
    ],
)
def test_other_lines_are_left_out(line: str) -> None:
    assert read_counts(f"{line}\n") == {}
