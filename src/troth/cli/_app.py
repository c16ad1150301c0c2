"""The command tree, and the one place where errors become messages and exit codes.

Exit codes: 0 yes, 1 no or refused, 2 wrong use (bad flags, bad input).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from troth import __version__
from troth.cli import (
    _audit,
    _ca,
    _check,
    _controller,
    _demo,
    _events,
    _exec,
    _explain,
    _node,
    _plan,
    _status,
    _trace,
    _up,
    _validate,
    _why,
)
from troth.cli._cluster import PLUGIN
from troth.cli._console import err
from troth.errors import InputError, TrothError

app = typer.Typer(
    name="troth",
    help="Mutual TLS between Kubernetes services, as Istio's PeerAuthentication says.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # the only one that fills paragraphs
    context_settings={"help_option_names": ["-h", "--help"]},
)
kubectl_app = typer.Typer(
    name="kubectl-troth",
    help="Mutual TLS between this cluster's services, as Istio's PeerAuthentication says.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # the only one that fills paragraphs
    context_settings={"help_option_names": ["-h", "--help"]},
)
"""kubectl's plugin: the commands that can ask a cluster, and there do so by themselves."""

for module in (_status, _validate, _explain, _plan, _why, _audit, _trace, _events, _ca, _check):
    module.register(kubectl_app)
for module in (
    _up,
    _status,
    _exec,
    _events,
    _validate,
    _explain,
    _plan,
    _why,
    _audit,
    _trace,
    _demo,
    _controller,
    _ca,
    _check,
    _node,
):
    module.register(app)


def _version(wanted: bool) -> None:  # noqa: FBT001 - Typer's callback signature
    if wanted:
        sys.stdout.write(f"troth {__version__}\n")
        raise typer.Exit


@app.callback()
@kubectl_app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Mutual TLS between Kubernetes services, as Istio's PeerAuthentication says."""


def run_process() -> None:
    """Run the command line of this process."""
    # nft lives where a plain user's PATH doesn't lead on Debian.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    # kubectl runs kubectl-troth for `kubectl troth`.
    sys.exit(run(sys.argv[1:], as_plugin=Path(sys.argv[0]).name == "kubectl-troth"))


def run(arguments: list[str], *, as_plugin: bool = False) -> int:
    """Run one command line.

    Args:
        arguments: Without the program's name.
        as_plugin: It was `kubectl troth`, which is about a cluster.

    Returns:
        Its exit code.
    """
    try:
        program, name = (kubectl_app, PLUGIN) if as_plugin else (app, "troth")
        result = program(arguments or ["--help"], prog_name=name, standalone_mode=False)
    except typer.Abort:
        return 1
    except typer.TyperException as error:
        err.print(f"[red]error:[/red] {escape(error.format_message())}", soft_wrap=True)
        return 2
    except TrothError as error:
        return _complain(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our report has seen enough.
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


def _complain(error: TrothError) -> int:
    if not isinstance(error, InputError):
        err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        return 1
    for problem in error.problems:
        err.print(f"[red]error:[/red] {escape(str(problem))}", soft_wrap=True)
    return 2
