"""`troth validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from troth.cli._console import Output, OutputOption, err, out, print_json
from troth.cli._manifests import FILES_HELP, ROOT_NAMESPACE, RootNamespaceOption, read_manifests
from troth.errors import Severity
from troth.explain import validate

if TYPE_CHECKING:
    from troth.explain import Validation

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("validate")(validate_command)


def validate_command(
    files: Annotated[list[Path], typer.Option("--filename", "-f", help=FILES_HELP)],
    more_files: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH...]", help="More of the same.")
    ] = None,
    root_namespace: RootNamespaceOption = ROOT_NAMESPACE,
    strict: Annotated[bool, typer.Option("--strict", help="Count warnings as errors.")] = False,
    output: OutputOption = Output.TEXT,
) -> int:
    """Find what is wrong with manifests, and policies that don't do what they seem to.

    The exit code is 0 when there is no error, and 1 when there is one.
    """
    (manifests,) = read_manifests([*files, *(more_files or ())])
    report = validate(manifests, root_namespace=root_namespace)
    if output is Output.JSON:
        print_json(report)
    else:
        _print(report)
    return 1 if report.errors or (strict and report.warnings) else 0


def _print(report: Validation) -> None:
    for problem in report.problems:
        note = " (warning)" if problem.severity is Severity.WARNING else ""
        colour = _COLOURS[problem.severity]
        out.print(f"[{colour}]{escape(str(problem))}[/]{note}", soft_wrap=True)
    if err.is_terminal:
        objects = sum(report.objects.values())
        ignored = sum(report.ignored.values())
        err.print(
            f"{objects} objects accepted, {ignored} of other kinds ignored: "
            f"{report.errors} errors, {report.warnings} warnings",
            style="dim",
        )
