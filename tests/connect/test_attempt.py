"""Which of a proxy's reports is about a connection made from a pod, and where pods listen."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.samples import connection

from troth.agent import netns
from troth.connect.attempt import _is_reported, first_report, listening, parse_table
from troth.connect.findings import Reached, belongs
from troth.identity.spiffe import TrustDomain
from troth.mesh.model import Endpoint, Pod
from troth.mesh.target import Target
from troth.mesh.world import World
from troth.traffic.connection import Connection, Outcome, Party, Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import InNode

BEGAN = datetime(2026, 5, 1, 12, 0, 0, 123_456, tzinfo=UTC)
WEB = Pod(uid="w", namespace="finance", name="web", addresses=("10.0.0.1",))
REPORT = connection(time=BEGAN.replace(microsecond=123_000))  # Envoy writes milliseconds


def _changed(**changes: object) -> Connection:
    return msgspec.structs.replace(REPORT, **changes)


ANY, OWN = None, 1000


@pytest.mark.parametrize(
    ("report", "own_port", "ours"),
    [
        pytest.param(REPORT, OWN, True, id="the same port"),
        pytest.param(
            _changed(source=Party(address="10.0.0.1", port=2000)),
            OWN,
            False,
            id="another port of a connection without a proxy",
        ),
        pytest.param(
            _changed(source=Party(address="10.0.0.1", port=2000)),
            ANY,
            True,
            id="another port where the pod's proxy made the connection",
        ),
        pytest.param(
            _changed(source=Party(address="10.0.0.9", port=1000)), ANY, False, id="another pod"
        ),
        pytest.param(
            _changed(destination=Party(address="10.0.0.2", port=9090)),
            OWN,
            False,
            id="to another port",
        ),
        pytest.param(
            _changed(destination=Party(address="10.0.0.3", port=8080)),
            OWN,
            False,
            id="to another pod",
        ),
        pytest.param(
            _changed(time=BEGAN - timedelta(milliseconds=2)), OWN, False, id="begun before"
        ),
    ],
)
def test_a_report_is_about_the_connection_when_ends_and_time_fit(
    report: Connection, own_port: int | None, *, ours: bool
) -> None:
    endpoints = (Endpoint("10.0.0.9", 8080), Endpoint("10.0.0.2", 8080))
    assert belongs(report, WEB, endpoints, began=BEGAN, own_port=own_port) is ours


async def _follow(*reports: Connection) -> AsyncIterator[Connection]:
    for report in reports:
        yield report


ECHO = _changed(outcome=Outcome.REFUSED, reason=Reason.REFUSED_BY_PEER)
WRONG = _changed(outcome=Outcome.REFUSED, reason=Reason.WRONG_SERVER_IDENTITY)


@pytest.mark.parametrize(
    ("reports", "told"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([REPORT, WRONG], REPORT, id="the first"),
        pytest.param([ECHO, WRONG], WRONG, id="the reason rather than its echo"),
        pytest.param([ECHO], ECHO, id="the echo alone"),
    ],
)
async def test_the_end_that_knows_why_is_heard(
    reports: list[Connection], told: Connection | None
) -> None:
    assert await first_report(_follow(*reports), lambda _: True) == told
    assert await first_report(_follow(*reports), lambda _: False) is None


@pytest.mark.parametrize(
    ("captured", "server", "reached", "reported"),
    [
        pytest.param(True, True, Reached.ANSWERED, True, id="both have a proxy"),
        pytest.param(True, True, Reached.UNREACHABLE, False, id="both, never reached"),
        pytest.param(False, True, Reached.RESET, True, id="the server's"),
        pytest.param(False, True, Reached.UNREACHABLE, False, id="the server's, never reached"),
        pytest.param(True, False, Reached.ANSWERED, False, id="the client's, which succeeded"),
        pytest.param(True, False, Reached.RESET, True, id="the client's, which may have failed"),
        pytest.param(False, False, Reached.RESET, False, id="nobody has a proxy"),
    ],
)
def test_a_report_is_waited_for_where_a_proxy_can_make_one(
    *, captured: bool, server: bool, reached: Reached, reported: bool
) -> None:
    pod = Pod(uid="p", namespace="f", name="p", addresses=("10.0.0.2",), captured=server)
    world = World(trust_domain=TrustDomain("cluster.local"), pods={"p": pod})
    target = Target(address="10.0.0.2", port=80, endpoints=(Endpoint("10.0.0.2", 80),))
    assert _is_reported(world, target, reached, captured=captured) is reported
    elsewhere = reported and captured and reached is Reached.RESET
    assert _is_reported(world, target, reached, captured=captured, node="other") is elsewhere
    nowhere = msgspec.structs.replace(target, endpoints=())
    assert not _is_reported(world, nowhere, reached, captured=captured)


_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"


def _row(local: str, state: str = "0A") -> str:
    return f"   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0\n"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        pytest.param(_row("00000000:1F90"), [Endpoint("0.0.0.0", 8080)], id="every address"),
        pytest.param(_row("0100007F:0050"), [Endpoint("127.0.0.1", 80)], id="loopback"),
        pytest.param(_row("0200000A:0050", "01"), [], id="established"),
        pytest.param(_row("0" * 32 + ":0050"), [Endpoint("::", 80)], id="every IPv6 address"),
        pytest.param(
            _row("000000FD000000000000000002000000:0050"), [Endpoint("fd00::2", 80)], id="IPv6"
        ),
        pytest.param(
            _row("0000000000000000FFFF00000100007F:0050"),
            [Endpoint("127.0.0.1", 80)],
            id="IPv4 in an IPv6 socket",
        ),
    ],
)
def test_a_listening_socket_is_read_from_the_kernels_table(row: str, found: list[Endpoint]) -> None:
    assert list(parse_table(_HEAD + row)) == found


def test_without_a_table_nobody_listens() -> None:
    assert list(parse_table("")) == []


def test_a_pods_listeners_are_seen_and_nobody_elses(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(see_listeners, tmp_path)


def see_listeners(directory: Path) -> None:
    path = directory / "pod"
    netns.create(path)
    with (
        socket.create_server(("127.0.0.1", 0)),  # not in the pod
        netns.socket_in(path, socket.AF_INET) as one,
    ):
        one.bind(("127.0.0.1", 8080))
        assert listening(path) == ()
        one.listen()
        assert listening(path) == (Endpoint("127.0.0.1", 8080),)
    netns.remove(path)
