"""`troth demo`, and how it reads: for 100 columns, and as plain text when piped."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Group
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from troth.cli.console import Output, OutputOption, err, out, print_json, print_report
from troth.cli.trace import decision_rows, render_report
from troth.demo.mesh import running
from troth.demo.scenario import Happened, examples
from troth.demo.walk import DemoReport, trace_handshake, walk
from troth.errors import InputError, Problem
from troth.mesh.ports import TUNNEL_PORT
from troth.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from troth.connect.report import Trace
    from troth.control.messages import MeshStatus
    from troth.demo.walk import Policy, StepReport, TryReport

_GOOD, _BAD = "green", "bold red"
_COLOURS = {
    Happened.TUNNEL: "green",
    Happened.PLAINTEXT: "yellow",
    Happened.REFUSED: "red",
    Happened.FAILED: "magenta",
}


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
            # The terminal wraps its commands, so that they are copied whole.
            out.print(render_next(program, examples()), soft_wrap=True)
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


def render_pods(status: MeshStatus) -> RenderableType:
    """Who is there, and who is in the mesh."""
    rows = Rows("", "", "", header=False)
    for pod in status.pods:
        rows.add_row(
            Text(pod.workload, style="bold"),
            Text(" ".join(pod.addresses)),
            Text(pod.identity if pod.captured and pod.identity else f"not in the mesh: {pod.why}"),
        )
    return Group(Text("A mesh on this machine, one Envoy for all of its pods", style="bold"), rows)


def render_step(step: StepReport) -> RenderableType:
    """What was applied, and for each try what was tried, what happened and what decided."""
    title = Text.assemble((f"{step.number}  {step.title}", "bold"))
    return Group(
        "",
        title,
        Padding(
            Group(
                Text(step.says, style="dim"),
                _applied(step.policy),
                *(_try(report) for report in step.tries),
            ),
            (0, 0, 0, 3),
        ),
    )


def render_handshake(trace: Trace, judged: TryReport) -> RenderableType:
    """One connection as both ends decided about it, and its handshake step by step."""
    client = trace.client
    decisions = _grid()
    for label, text in decision_rows(client, trace.server):
        decisions.add_row(label, Text(text))
    title = f"One handshake, step by step: {client.source} → {client.destination}:{client.port}"
    return Group(
        "",
        Text(title, style="bold"),
        decisions,
        "",
        render_report(trace.report),
        *_differences([judged]),
    )


def render_summary(tries: Sequence[TryReport], *, seconds: float | None) -> RenderableType:
    """Whether everything came out as it should, and how long that took if it's of interest."""
    wrong = [report for report in tries if not report.ok]
    if not wrong:
        took = "" if seconds is None else f", in {seconds:.1f} s"
        text = f"✓ all {len(tries)} connections came out as they should{took}"
        return Group("", Text(text, style=_GOOD))
    text = f"✗ {len(wrong)} of {len(tries)} connections did NOT come out as they should:"
    lines = (Text(f"  {_route(report)}: {'; '.join(report.differs)}") for report in wrong)
    return Group("", Text(text, style=_BAD), *lines)


def render_next(program: str, examples: Path) -> RenderableType:
    """What to try after the demonstration, with the manifests that it has used.

    Args:
        program: What to type for ``troth``.
        examples: Where they are.
    """
    finance, policy = examples / "finance", examples / "policies" / "strict-payments.yaml"
    commands = (
        f"{program} up -d {_shown(finance)} {_shown(policy)}",
        f"{program} exec legacy/cron -- curl -sS payments.finance:8080",
        f"{program} why     # who refused it, and what to do",
        f"{program} down",
    )
    lines = (Text(f"  {command}", style="cyan") for command in commands)
    title = Text("Next: the same mesh, yours to change", style="bold")
    return Group("", title, *lines)


def _shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _applied(policy: Policy | None) -> RenderableType:
    rows = _grid()
    if policy is None:
        rows.add_row("applied", "no policy")
    else:
        rows.add_row("applied", Text(policy.file, style="cyan"))
        rows.add_row("", Text(_gist(policy.manifest), style="cyan"))
    return rows


def _try(report: TryReport) -> RenderableType:
    rows = _grid()
    mark = Text("✓", style=_GOOD) if report.ok else Text("✗", style=_BAD)
    rows.add_row(Text.assemble(mark, " tried"), Text(f"{_route(report)}, {_how(report)}"))
    rows.add_row("  happened", Text(report.detail, style=_COLOURS[report.happened]))
    rows.add_row("  decided by", Text(_decided(report)))
    return Group(rows, *_differences([report]))


def _differences(reports: Iterable[TryReport]) -> Iterator[Text]:
    for report in reports:
        for difference in report.differs:
            yield Text(f"✗ NOT AS IT SHOULD BE: {difference}", style=_BAD)


def _route(report: TryReport) -> str:
    return f"{report.source} → {report.destination}:{report.port}"


def _how(report: TryReport) -> str:
    if report.credentials is None:
        return "GET / by plain HTTP"
    claim = f" that says {report.claim}" if report.claim else ""
    return f"TLS to its port {TUNNEL_PORT} with {report.credentials.words}{claim}"


def _decided(report: TryReport) -> str:
    event = report.event
    if event is None:
        return "unknown: the proxy reports no such connection"
    if report.credentials is not None:
        reason = str(event.reason).replace("_", " ")
        return f"the tunnel itself: {reason} (the port is {event.mode} by {event.decided_by})"
    if event.mode is None:
        return "nobody: the destination is not in the mesh"
    return f"{event.decided_by}: {event.mode}"


def _gist(manifest: str) -> str:
    """A manifest without comments and without the lines that all policies share."""
    document = yaml.safe_load(manifest)
    gist = {key: document[key] for key in ("metadata", "spec") if key in document}
    return str(yaml.safe_dump(gist, sort_keys=False, default_flow_style=None)).strip()


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=12)
    grid.add_column(overflow="fold")
    return grid
