"""What people and programs get to see of a trace."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from rich.console import Console
from tests.columns import assert_whole

from troth.cli.trace import render_report
from troth.handshake.record import Kind, TlsRole
from troth.handshake.steps import _ENDINGS, _RULES, TraceReport, build_report
from troth.handshake.wire import (
    offered_groups,
    parse_certificate,
    parse_server_hello,
    signature_scheme,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.handshake.conftest import MemoryServer, World

    Converse = Callable[..., TraceReport]
    Serve = Callable[..., MemoryServer]

GOLDEN = Path(__file__).with_name("golden")


def shown(report: TraceReport, *, terminal: bool = False, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=terminal).print(render_report(report))
    return out.getvalue()


def normalised(text: str) -> str:
    """Without what differs from run to run: serials, dates and the length of signatures."""
    text = re.sub(r"serial [0-9a-f]+", "serial SERIAL", text)
    text = re.sub(r"root [0-9a-f]+", "root ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE", text)
    text = re.sub(r"\d+ bytes", "N bytes", text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


@pytest.mark.parametrize(
    ("name", "client", "server"),
    [
        pytest.param("accepted", "web", "payments", id="accepted"),
        pytest.param("refused-client", "expired_web", "payments", id="refused client"),
        pytest.param("refused-server", "web", "web", id="refused server"),
    ],
)
def test_a_report_reads_as_its_golden(  # noqa: PLR0917 - three fixtures, three columns
    world: World, serve: Serve, converse: Converse, name: str, client: str, server: str
) -> None:
    report = converse(world.trace(getattr(world, client)), serve(getattr(world, server)))

    golden = (GOLDEN / f"{name}.txt").read_text("utf-8")
    assert normalised(shown(report)) == golden


@pytest.mark.parametrize(("client", "server"), [("web", "payments"), ("web", "web")])
def test_a_report_loses_nothing_on_a_narrow_terminal(
    world: World, serve: Serve, converse: Converse, client: str, server: str
) -> None:
    report = converse(world.trace(getattr(world, client)), serve(getattr(world, server)))
    assert_whole(render_report(report))


def test_a_report_fits_100_columns_and_has_no_colours_when_piped(
    world: World, serve: Serve, converse: Converse
) -> None:
    report = converse(world.trace(world.web), serve())

    piped = shown(report)
    assert max(map(len, piped.splitlines())) <= 100
    assert "\x1b" not in piped
    assert "\x1b" in shown(report, terminal=True)


def test_what_a_stranger_says_is_not_taken_for_markup(world: World) -> None:
    trace = world.trace(None)
    trace.start(0.0)
    trace.receive(b"HTTP [bold red]x[/] \x1b[31m", 1.0)

    text = shown(build_report(trace.record()))
    assert "[bold red]x[/]" in text
    assert "\x1b" not in text


def test_a_report_is_json_with_a_schema(world: World, serve: Serve, converse: Converse) -> None:
    report = converse(world.trace(world.web), serve())
    encoded = msgspec.json.encode(report)

    assert json.loads(encoded)["schema"] == "troth/handshake/v1"
    assert msgspec.json.decode(encoded, type=TraceReport) == report


def test_steps_and_tracker_are_numbered_alike(
    world: World, serve: Serve, converse: Converse
) -> None:
    report = converse(world.trace(world.web), serve())

    numbers = [step.number for step in report.steps]
    assert numbers == list(range(1, len(report.handshake.events) + 1))
    assert [row.step for row in report.tracker] == numbers


def test_the_servers_certificate_comes_before_the_clients_and_trust_before_acceptance(
    world: World, serve: Serve, converse: Converse
) -> None:
    tracker = converse(world.trace(world.web), serve()).tracker

    def first(field: str, value: str) -> int:
        return next(row.step for row in tracker if getattr(row, field) == value)

    assert (
        first("server_certificate", "sent")
        < first("server_certificate", "trusted")
        < first("server_certificate", "verified")
        < first("client_certificate", "sent")
        < first("client_certificate", "verified")
    )
    assert first("client_certificate", "verified") == first("connection", "established")


@pytest.mark.parametrize("kind", Kind)
def test_everything_that_can_happen_has_a_rule_or_needs_none(kind: Kind) -> None:
    without = {Kind.FINISHED, Kind.OTHER_MESSAGE, Kind.KEY_UPDATE, Kind.UNREADABLE}
    assert kind in _ENDINGS or kind in without or any((side, kind) in _RULES for side in TlsRole)


@pytest.mark.parametrize("cut", [0, 1, 10, 34, 36, 39, 45])
def test_a_truncated_message_is_described_without_its_fields(cut: int) -> None:
    hello = bytes.fromhex("0303" + "22" * 32 + "00" + "1301" + "00" + "0006" + "002b0002" + "0304")

    assert parse_server_hello(hello) is not None
    assert parse_server_hello(hello[:cut]) is None
    assert offered_groups(hello[:cut]) == ()
    assert parse_certificate(b"\x00\x00\x00\xff" + hello[:cut]) == ()


def test_a_certificate_verify_without_scheme_has_none() -> None:
    assert signature_scheme(b"\x04\x03rest") == 0x0403
    assert signature_scheme(b"\x04") is None
