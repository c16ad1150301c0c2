"""`troth demo`."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from rich.markup import escape

from troth.cli.console import Output, OutputOption, err, print_json, print_report

if TYPE_CHECKING:
    from collections.abc import Sequence

    import typer


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("demo")(demo)


def demo(output: OutputOption = Output.TEXT) -> int:
    """Start a small mesh and walk through policies, refusals and one TLS handshake.

    Takes a few seconds and no input, works as root and as a plain user, and leaves nothing behind.
    The exit code is 1 when anything comes out otherwise than it should.
    """
    # No other command needs what these import.
    from troth.cli.render.demo import render_handshake, render_pods, render_step, render_summary  # noqa: PLC0415
    from troth.demo.mesh import running  # noqa: PLC0415
    from troth.demo.walk import (  # noqa: PLC0415
        DemoReport,
        trace_handshake,
        walk,
    )

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    text = output is Output.TEXT
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
            trace, judged = trace_handshake(mesh)
    finally:
        status.stop()
    tries = [*(report for step in steps for report in step.tries), judged]
    ok = all(report.ok for report in tries)
    if text:
        print_report(render_handshake(trace, judged))
        print_report(render_summary(tries, seconds=time.monotonic() - began))
    else:
        print_json(DemoReport(ok=ok, steps=tuple(steps), handshake=trace.report))
    return 0 if ok else 1


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)
