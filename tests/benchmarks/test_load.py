"""What the load generators and the kernel say is read as it is meant."""

from __future__ import annotations

import pytest
from benchmarks.data_plane import load
from benchmarks.data_plane.proc import parse_machine

BEFORE = "cpu  100 0 50 9000 300 5 20 10 40 0"
AFTER = "cpu  250 0 100 9100 310 5 40 30 60 0"


def test_idle_stolen_and_guests_time_is_not_counted_as_work() -> None:
    assert parse_machine(AFTER) - parse_machine(BEFORE) == pytest.approx((150 + 50 + 20) / 100)


def test_a_closed_loop_tells_its_requests_and_the_machine_its_work() -> None:
    counted = (
        '{"requests": 12, "bytes": 3400, "seconds": 2.5, "errors": 1, "p50": 700, "p99": 4000}'
    )
    outcome = load.parse_closed_loop(f"{BEFORE}\nRunning 2s test\n\n{counted}\n{AFTER}\n")
    assert outcome == load.Outcome(
        requests=12,
        bytes=3400,
        seconds=2.5,
        errors=1,
        p50=700,
        p99=4000,
        machine_seconds=parse_machine(AFTER) - parse_machine(BEFORE),
    )


def test_requests_that_were_not_answered_have_no_time() -> None:
    log = ["1700000000000000\t200\t1500", "1700000000001000\t-1\t9", "1700000000002000\t200\t400"]
    assert load.parse_fixed_rate(log) == [1500.0, 400.0]
