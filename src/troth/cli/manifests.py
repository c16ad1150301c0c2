"""The options by which commands take manifests, and reading them."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from troth.cli.console import err
from troth.errors import InputError, Problem, Severity
from troth.manifests.amend import as_stored
from troth.manifests.collect import DEFAULT_NAMESPACE, Manifests
from troth.manifests.files import STDIN, load
from troth.mesh.world import DEFAULT_ROOT_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FILES_HELP = "Manifest file, directory, or - for standard input; may be repeated."
LARGEST_STDIN = 64 * 1024 * 1024
"""Bytes; more is refused, as it is of a file."""

ROOT_NAMESPACE = DEFAULT_ROOT_NAMESPACE


def read_manifests(*groups: Sequence[Path], namespace: str | None = None) -> tuple[Manifests, ...]:
    """Read each group of paths as a set of its own.

    Args:
        groups: The paths.
        namespace: Of objects that name none.

    Raises:
        InputError: A path doesn't exist, or standard input is wanted twice or too large.
    """
    paths = [path for group in groups for path in group]
    problems = [
        _problem(str(path), "there is no such file or directory", "name one that exists")
        for path in dict.fromkeys(paths)
        if path != STDIN and not path.exists()
    ]
    wanted = sum(STDIN in group for group in groups)
    if wanted > 1:
        problems.append(_problem("-", "is given for two sets of manifests", "give it once"))
    if problems:
        raise InputError(problems)
    stdin = _standard_input() if wanted else None
    place = namespace or DEFAULT_NAMESPACE
    now = datetime.now(UTC)
    return tuple(as_stored(load(group, stdin, namespace=place), now=now) for group in groups)


def warn_of_errors(problems: Iterable[Problem]) -> None:
    """Say on standard error which objects the answer is without."""
    for problem in problems:
        if problem.severity is Severity.ERROR:
            err.print(f"[yellow]left out:[/yellow] {escape(str(problem))}", soft_wrap=True)


def pass_on_warnings(warnings: Iterable[Problem]) -> None:
    """Say on standard error what is valid, but probably a mistake."""
    for warning in warnings:
        err.print(f"[yellow]warning:[/yellow] {escape(str(warning))}", soft_wrap=True)


def _standard_input() -> bytes:
    data = sys.stdin.buffer.read(LARGEST_STDIN + 1)
    if len(data) > LARGEST_STDIN:
        raise InputError(
            [_problem("-", f"is more than {LARGEST_STDIN} bytes", "give files instead")]
        )
    return data


def _problem(subject: str, found: str, wanted: str) -> Problem:
    return Problem(subject=subject, path="", found=found, wanted=wanted)
