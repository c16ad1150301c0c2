"""The command tree, and the one place where errors become messages and exit codes.

Exit codes: 0 yes, 1 no or refused, 2 wrong use (bad flags, bad input).
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from troth import __version__
from troth.cli import PLUGIN
from troth.errors import InputError, TrothError

COMMANDS = {
    "up": "up",
    "down": "up",
    "status": "status",
    "exec": "exec",
    "logs": "exec",
    "events": "events",
    "validate": "validate",
    "explain": "explain",
    "plan": "plan",
    "why": "why",
    "audit": "audit",
    "trace": "trace",
    "demo": "demo",
    "controller": "controller",
    "check": "check",
    "node": "node",
    "ca": "ca",
}
"""The module of every command, as help lists them."""

PLUGIN_COMMANDS = (
    *("status", "validate", "explain", "plan", "why", "audit", "trace", "events", "check", "ca"),
)
"""Those of kubectl's plugin: they can ask a cluster, and there do so by themselves."""


_COLUMNS_FOR_FRAMES = 100


def command_tree(first: str = "", *, as_plugin: bool = False) -> typer.Typer:
    """The commands, or only what is needed of them: modules take long to import.

    Args:
        first: The first argument. If it is a command, its module alone is imported.
        as_plugin: Those of kubectl's plugin.
    """
    cluster = "this cluster's" if as_plugin else "Kubernetes"
    tree = typer.Typer(
        help=f"Mutual TLS between {cluster} services, as Istio's PeerAuthentication says.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=_help_style(of_command=first in COMMANDS and first != "ca"),
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    tree.callback()(_root)
    names = PLUGIN_COMMANDS if as_plugin else tuple(COMMANDS)
    for module in dict.fromkeys(COMMANDS[name] for name in ((first,) if first in names else names)):
        importlib.import_module(f"troth.cli.{module}").register(tree)
    return tree


def _help_style(*, of_command: bool) -> Literal["markdown"] | None:
    """How help is set: in frames, where they don't crop the names of options."""
    roomy = shutil.get_terminal_size().columns >= _COLUMNS_FOR_FRAMES
    # Of rich's, it is the only one that fills paragraphs.
    return "markdown" if roomy or not of_command else None


def _version(wanted: bool) -> None:  # noqa: FBT001 - Typer's callback signature
    if wanted:
        sys.stdout.write(f"troth {__version__}\n")
        raise typer.Exit


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
        tree = command_tree(arguments[0] if arguments else "", as_plugin=as_plugin)
        name = PLUGIN if as_plugin else "troth"
        result = tree(arguments or ["--help"], prog_name=name, standalone_mode=False)
    except typer.Abort:
        return 1
    except typer.TyperException as error:
        _complain(error.format_message())
        return 2
    except TrothError as error:
        _complain(*(error.problems if isinstance(error, InputError) else [error]))
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our report has seen enough.
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


def _complain(*errors: object) -> None:
    # Here, because it takes a while, and most commands have nothing to complain of.
    from rich.markup import escape  # noqa: PLC0415

    from troth.cli.console import err  # noqa: PLC0415

    for error in errors:
        err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
