"""`troth demo` as a command, on a mesh that only answers."""

from __future__ import annotations

import contextlib
import json
import signal
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.demo.samples import ANSWERED, BY_TUNNEL, IMPOSTOR, RESET, refused_trace

from troth.cli.app import run
from troth.demo.walk import StepReport, judge_attempt, judge_trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.connect.findings import Attempt


def _pretend(monkeypatch: pytest.MonkeyPatch, attempt: Attempt) -> None:
    tried = judge_attempt(BY_TUNNEL, attempt)
    step = StepReport(number=1, title="", says="", policy=None, tries=(tried,), ok=tried.ok)

    @contextlib.contextmanager
    def running(_: object) -> Iterator[None]:
        yield

    trace = refused_trace()
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("troth.cli.demo.running", running)
    monkeypatch.setattr("troth.cli.demo.walk", lambda _: iter([step]))
    monkeypatch.setattr(
        "troth.cli.demo.trace_handshake", lambda _: (trace, judge_trace(IMPOSTOR, trace))
    )


@pytest.mark.parametrize(
    ("attempt", "code"),
    [
        pytest.param(ANSWERED, 0, id="as it should"),
        pytest.param(RESET, 1, id="otherwise"),
        pytest.param(msgspec.structs.replace(ANSWERED, event=None), 1, id="unreported"),
    ],
)
def test_the_exit_code_says_whether_everything_came_out(
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
    attempt: Attempt,
    code: int,
) -> None:
    _pretend(monkeypatch, attempt)
    assert run(["demo", "-o", "json"]) == code
    report = json.loads(capsysbinary.readouterr().out)
    assert report["schema"] == "troth/demo/v1"
    assert report["ok"] is (code == 0)
    assert report["steps"][0]["tries"][0]["ok"] is (code == 0)
    assert report["handshake"]["schema"] == "troth/handshake/v1"


def test_json_does_not_wait_for_a_reader(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--step", "-o", "json"]) == 2
    assert "--step: is for people" in capsys.readouterr().err
