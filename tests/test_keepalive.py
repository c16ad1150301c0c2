from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.keepalive import (
    LONGEST_KEEPALIVE_SECONDS,
    SHORTEST_KEEPALIVE_SECONDS,
    Keepalive,
)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (4, Keepalive(idle=2, interval=1, count=2)),
        (120, Keepalive(idle=60, interval=15, count=4)),
        (7200, Keepalive(idle=60, interval=60, count=119)),
    ],
)
def test_a_time_is_divided_into_probes(seconds: int, expected: Keepalive) -> None:
    assert Keepalive.of(seconds) == expected


@given(st.integers(SHORTEST_KEEPALIVE_SECONDS, LONGEST_KEEPALIVE_SECONDS))
def test_every_time_is_about_kept_by_probes_that_the_kernel_takes(seconds: int) -> None:
    each = Keepalive.of(seconds)
    assert seconds - each.interval < each.idle + each.interval * each.count <= seconds
    assert max(each.idle, each.interval) <= 60
    assert 1 <= each.count <= 127
