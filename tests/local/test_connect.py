"""Which of the proxy's reports is about a connection made from a pod."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from troth.local._connect import belongs
from troth.mesh import Connection, Endpoint, Outcome, Party, Pod, Reason, Side

BEGAN = datetime(2026, 5, 1, 12, 0, 0, 123_456, tzinfo=UTC)
CAPTURED = Pod(uid="w", namespace="finance", name="web", addresses=("10.0.0.1",), captured=True)
FOREIGN = msgspec.structs.replace(CAPTURED, captured=False)
REPORT = Connection(
    time=BEGAN.replace(microsecond=123_000),  # Envoy writes milliseconds
    outcome=Outcome.PLAINTEXT,
    reason=Reason.NONE,
    detail="",
    side=Side.SERVER,
    source=Party(address="10.0.0.1", port=1000),
    destination=Party(address="10.0.0.2", port=8080),
    peer=None,
    claimed_peer=None,
    mode=None,
    decided_by=None,
    tls_version="",
    tls_cipher="",
    tls_group="",
    duration_ms=0,
)


def _changed(**changes: object) -> Connection:
    return msgspec.structs.replace(REPORT, **changes)


@pytest.mark.parametrize(
    ("report", "source", "ours"),
    [
        pytest.param(REPORT, FOREIGN, True, id="the same port"),
        pytest.param(
            _changed(source=Party(address="10.0.0.1", port=2000)),
            FOREIGN,
            False,
            id="another port of a pod without a proxy",
        ),
        pytest.param(
            _changed(source=Party(address="10.0.0.1", port=2000)),
            CAPTURED,
            True,
            id="another port where the pod's proxy made the connection",
        ),
        pytest.param(
            _changed(source=Party(address="10.0.0.1", port=2000), side=Side.CLIENT),
            CAPTURED,
            False,
            id="another port where the pod's proxy reports what came to it",
        ),
        pytest.param(
            _changed(source=Party(address="10.0.0.9", port=1000)),
            CAPTURED,
            False,
            id="another pod",
        ),
        pytest.param(
            _changed(destination=Party(address="10.0.0.2", port=9090)),
            FOREIGN,
            False,
            id="to another port",
        ),
        pytest.param(
            _changed(destination=Party(address="10.0.0.3", port=8080)),
            FOREIGN,
            False,
            id="to another pod",
        ),
        pytest.param(
            _changed(time=BEGAN - timedelta(milliseconds=2)), FOREIGN, False, id="begun before"
        ),
    ],
)
def test_a_report_is_about_the_connection_when_ends_and_time_fit(
    report: Connection, source: Pod, *, ours: bool
) -> None:
    endpoints = (Endpoint("10.0.0.9", 8080), Endpoint("10.0.0.2", 8080))
    assert belongs(report, source, endpoints, began=BEGAN, source_port=1000) is ours
