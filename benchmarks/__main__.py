"""`python -m benchmarks`."""

from __future__ import annotations

import os
import shutil
from enum import StrEnum
from typing import Annotated

import typer

from benchmarks import catalogue
from benchmarks.framework import record, report
from benchmarks.framework.ending import end_in_order
from benchmarks.framework.progress import ProgressLine
from benchmarks.framework.runner import measure, measure_and_compare, worse


class Output(StrEnum):
    """How figures are written."""

    TEXT = "text"
    JSON = "json"


def run(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Which ones; all by default.")
    ] = None,
    *,
    list_: Annotated[bool, typer.Option("--list", help="Name the benchmarks, run none.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Rough figures, soon.")] = False,
    recording: Annotated[
        bool, typer.Option("--record", help="Keep the figures in recorded.json.")
    ] = False,
    checking: Annotated[
        bool,
        typer.Option(
            "--check", help="Measure again what got worse than recorded; exit 1 if it did."
        ),
    ] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="text or json.")] = Output.TEXT,
) -> None:
    """Measure what troth costs, beside what it is compared with, and print the figures."""
    if list_:
        for name in catalogue.NAMES:
            typer.echo(f"{name:24}{catalogue.find(name).about}")
        return
    chosen = names or list(catalogue.NAMES)
    if flaw := _flaw(chosen, quick=quick, recording=recording, checking=checking):
        typer.echo(flaw, err=True)
        raise typer.Exit(2)
    recorded = record.load()
    results = []
    with ProgressLine() as progress:
        for name in chosen:
            benchmark = catalogue.find(name)
            results.append(
                measure_and_compare(name, benchmark, recorded, progress=progress)
                if checking
                else measure(name, benchmark, quick=quick, progress=progress)
            )
            if recording:
                record.store(results[-1:])
    if output is Output.JSON:
        report.print_json(results, recorded)
    else:
        report.print_table(results, recorded)
    if checking and any(worse(result, recorded) for result in results):
        raise typer.Exit(1)


def _flaw(names: list[str], *, quick: bool, recording: bool, checking: bool) -> str:
    """What is wrong with the request, or the machine; empty when nothing is."""
    if unknown := sorted(set(names) - set(catalogue.NAMES)):
        return f"no benchmark is called {unknown[0]!r}; there are {', '.join(catalogue.NAMES)}"
    if recording and checking:
        return "--record and --check exclude each other: record what has been checked"
    if quick and (recording or checking):
        return "--quick figures are too rough to be kept or held against others; leave it out"
    for name in names:
        benchmark = catalogue.find(name)
        if benchmark.needs_root and os.geteuid() != 0:
            return f"{name} makes network namespaces: run it as root"
        if missing := [need for need in benchmark.needs if shutil.which(need) is None]:
            return f"{name} needs {', '.join(missing)}: run scripts/bench-needs"
    return ""


if __name__ == "__main__":
    end_in_order()
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(run)
    app()
