"""The demonstration as people see it, at 100 columns and without colours."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from tests.columns import assert_whole, drawn
from tests.demo.samples import ANSWERED, BY_TUNNEL, IMPOSTOR, RESET, refused_trace

from troth.cli.demo import render_handshake, render_step, render_summary
from troth.demo.scenario import STAGES, Happened, examples
from troth.demo.walk import Policy, StepReport, TryReport, judge_attempt, judge_trace

if TYPE_CHECKING:
    from rich.console import RenderableType

_WEB = "spiffe://cluster.local/ns/finance/sa/web"


def _text(part: RenderableType) -> str:
    file = io.StringIO()
    Console(file=file, width=100, force_terminal=False).print(part)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _step(*tries: TryReport) -> StepReport:
    file = "policies/strict-namespace.yaml"
    return StepReport(
        number=2,
        title="STRICT for namespace finance",
        says="Nothing gets in but by the tunnel.",
        policy=Policy(file=file, manifest=(examples() / file).read_text()),
        tries=tries,
        ok=all(report.ok for report in tries),
    )


def test_a_step_shows_what_was_applied_tried_and_decided() -> None:
    refused = msgspec.structs.replace(
        STAGES[1].tries[1], source="legacy/cron", expected=Happened.REFUSED
    )
    step = _step(judge_attempt(BY_TUNNEL, ANSWERED), judge_attempt(refused, RESET))
    assert (
        _text(render_step(step))
        == f"""
2  STRICT for namespace finance
   Nothing gets in but by the tunnel.
   applied       policies/strict-namespace.yaml
                 metadata: {{name: strict, namespace: finance}}
                 spec:
                   mtls: {{mode: STRICT}}
   ✓ tried       finance/web → finance/payments:8080, GET / by plain HTTP
     happened    200 OK "paid", by the tunnel as {_WEB}
     decided by  the default: PERMISSIVE
   ✓ tried       legacy/cron → finance/payments:8080, GET / by plain HTTP
     happened    refused: plaintext to strict (connection reset by peer)
     decided by  finance/strict (namespace): STRICT"""
    )


def test_a_step_without_a_policy_says_so() -> None:
    step = msgspec.structs.replace(_step(), policy=None)
    assert "   applied       no policy" in _text(render_step(step))


def test_an_impostor_is_shown_with_what_it_showed_and_why_it_was_refused() -> None:
    text = _text(render_step(_step(judge_trace(IMPOSTOR, refused_trace()))))
    shown = "TLS to its port 15007 with an expired certificate that says finance/web"
    assert shown in " ".join(text.split())
    assert "decided by  the tunnel itself: certificate expired" in text


def test_what_differs_is_said_loudly_in_the_step_and_at_the_end() -> None:
    wrong = judge_attempt(BY_TUNNEL, RESET)
    text = _text(render_step(_step(wrong)))
    assert "   ✗ tried " in text
    assert "   ✗ NOT AS IT SHOULD BE: should be tunnel, is refused" in text
    right = judge_attempt(BY_TUNNEL, ANSWERED)
    assert "✗ 1 of 2 connections did NOT come out as they should:" in _text(
        render_summary([right, wrong], seconds=3.21)
    )


def test_the_end_says_that_all_is_as_it_should_be_when_it_is() -> None:
    right = judge_attempt(BY_TUNNEL, ANSWERED)
    text = _text(render_summary([right, right], seconds=3.21))
    assert text.strip() == "✓ all 2 connections came out as they should, in 3.2 s"


def test_the_handshake_is_shown_with_both_ends_decisions_within_100_columns() -> None:
    trace = refused_trace()
    text = _text(render_handshake(trace, judge_trace(IMPOSTOR, trace)))
    assert "client        uses the tunnel: port 8080 of finance/payments-0 is PERMISSIVE" in text
    assert "server        takes plaintext, too: PERMISSIVE by the default" in text
    assert "Process" in text
    assert "Status" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_narrow_terminal_loses_nothing() -> None:
    assert_whole(render_step(_step(judge_attempt(BY_TUNNEL, ANSWERED))))
    assert_whole(render_handshake(refused_trace(), judge_trace(IMPOSTOR, refused_trace())))


def test_the_handshake_is_a_table_at_80_columns() -> None:
    text = drawn(render_handshake(refused_trace(), judge_trace(IMPOSTOR, refused_trace())), 80)
    (heading,) = (line for line in text.splitlines() if line.strip().startswith("#   ms"))
    assert heading.split() == ["#", "ms", "who", "does", "client", "server"]
