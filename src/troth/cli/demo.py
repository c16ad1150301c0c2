"""`troth demo`."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from troth.cli.console import Output, OutputOption, err, print_json, print_report
from troth.errors import InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("demo")(demo)


def demo(
    output: OutputOption = Output.TEXT,
    step_by_step: Annotated[
        bool, typer.Option("--step", help="Wait for Enter after each step.")
    ] = False,
) -> int:
    """Start a small mesh and walk through policies, refusals and one TLS handshake.

    Takes a few seconds, works as root and as a plain user, and leaves nothing behind. The exit
    code is 1 when anything comes out otherwise than it should.
    """
    # No other command needs what these import.
    from troth.cli.render.demo import (  # noqa: PLC0415
        render_handshake,
        render_next,
        render_pods,
        render_step,
        render_summary,
    )
    from troth.demo.mesh import running  # noqa: PLC0415
    from troth.demo.scenario import examples  # noqa: PLC0415
    from troth.demo.walk import (  # noqa: PLC0415
        DemoReport,
        trace_handshake,
        walk,
    )

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    text = output is Output.TEXT
    if step_by_step and not text:
        wanted = "leave out one of the two"
        found = "is for people, and JSON is not"
        raise InputError([Problem(subject="--step", path="", found=found, wanted=wanted)])
    began = time.monotonic()
    status = err.status("starting a mesh")

    def tell(waiting: Sequence[str]) -> None:
        status.update(f"starting a mesh: waiting for {escape(waiting[0])}")

    status.start()
    try:
        with running(tell) as mesh:
            status.stop()
            if text:
                print_report(render_pods(mesh.status()))
            steps = []
            for step in walk(mesh):
                steps.append(step)
                if text:
                    print_report(render_step(step))
                if step_by_step:
                    _await_enter()
            trace, judged = trace_handshake(mesh)
    finally:
        status.stop()
    tries = [*(report for step in steps for report in step.tries), judged]
    ok = all(report.ok for report in tries)
    if text:
        print_report(render_handshake(trace, judged))
        # No measure of the mesh when somebody was reading meanwhile.
        seconds = None if step_by_step else time.monotonic() - began
        print_report(render_summary(tries, seconds=seconds))
        if ok:
            program = "troth" if shutil.which("troth") else sys.argv[0]
            print_report(render_next(program, examples()))
    else:
        print_json(DemoReport(ok=ok, steps=tuple(steps), handshake=trace.report))
    return 0 if ok else 1


def _await_enter() -> None:
    """Wait until the reader goes on; where nobody can (the input has ended), go on at once."""
    err.print("[dim]Enter for the next step[/dim]", end="")
    if not sys.stdin.readline():
        err.print()


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)
