"""The command tree, and the one place where errors become messages and exit codes.

Exit codes: 0 yes, 1 no or refused, 2 wrong use (bad flags, bad input).
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from troth import __version__
from troth.cli import PLUGIN
from troth.errors import InputError, TrothError
from troth.syntax import nearest

COMMANDS = {
    "up": "up",
    "down": "up",
    "status": "status",
    "exec": "pods",
    "logs": "pods",
    "port-forward": "pods",
    "describe": "pods",
    "restart": "pods",
    "scale": "pods",
    "wait": "pods",
    "events": "events",
    "validate": "validate",
    "explain": "explain",
    "plan": "plan",
    "why": "why",
    "audit": "audit",
    "trace": "trace",
    "ui": "ui",
    "demo": "demo",
    "learn": "learn",
    "controller": "controller",
    "check": "check",
    "node": "node",
    "version": "app",
    "ca": "ca",
}
"""The module of every command, as help lists them."""

SUMMARIES = {
    "up": "Start a mesh from Kubernetes manifests, on this machine, and keep it as they say.",
    "down": "Stop the mesh and remove everything it made; also what a killed one left behind.",
    "status": "Show each pod: identity, mode of every port, certificate, captured or why not.",
    "exec": "Run a command inside a pod, as one of its containers would.",
    "logs": "Print what a container wrote since its last start; also of one that has ended.",
    "port-forward": "Lead connections to a port of this machine to one of a pod, until Ctrl-C.",
    "describe": (
        "Show all of a pod: containers, identity, ports, Services that lead to it, last refusals."
    ),
    "restart": "End a workload's pods, or one pod, and start them anew from their manifests.",
    "scale": (
        "Have a workload run so many pods, until its manifest says another number than it does now."
    ),
    "wait": (
        "Wait until a workload's pods, a pod or a Job are as asked; the exit code is 1 if they "
        "aren't."
    ),
    "events": "Show connections: accepted by the tunnel, passed in plaintext, refused, and why.",
    "validate": (
        "Find what is wrong with manifests or a cluster, and policies that don't do what "
        "they seem to."
    ),
    "explain": (
        "Say which mutual TLS mode holds for a workload's ports, and which policy decides, and why."
    ),
    "plan": "Say what a change would do: modes, who is refused, what loses encryption.",
    "why": "Say why the last connections were refused or failed, and what to do about each.",
    "audit": "Show who connected to whom, and which workloads are ready for STRICT or why not.",
    "trace": (
        "Make one connection and trace one handshake: what both ends decide, and where it stops."
    ),
    "ui": "Show a running mesh on a page: who talks to whom, how, and what is refused and why.",
    "demo": "Start a small mesh and walk through policies, refusals and one TLS handshake.",
    "learn": "Learn mutual TLS on a running mesh: lessons, and tasks that the mesh itself judges.",
    "controller": (
        "Run a cluster's controller: certificates for node agents, root, policies' status."
    ),
    "check": "Say what a cluster lacks for troth, before or after it is installed.",
    "node": "Run a cluster's node agent: capture this node's pods and enforce the mesh's policies.",
    "version": "Print the version.",
    "ca": "See and replace the root certificate of a cluster's mesh.",
}
"""What each does, as the list of them says it: to take it from their modules takes long."""

PLUGIN_COMMANDS = (
    *("status", "validate", "explain", "plan", "why", "audit", "trace", "events", "ui", "check"),
    *("version", "ca"),
)
"""Those of kubectl's plugin: they can ask a cluster, and there do so by themselves."""


_COLUMNS_FOR_FRAMES = 110
_LISTING = frozenset({"-h", "--help", "--version"})


def command_tree(first: str = "", *, as_plugin: bool = False) -> typer.Typer:
    """The commands, or only what is needed of them: modules take long to import.

    Args:
        first: The first argument. If it is a command, its module alone is imported; if it asks
            for the list of them, none is.
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
    if first in _LISTING:
        for name in names:
            tree.command(name, help=SUMMARIES[name])(_listed_only)
        return tree
    for module in dict.fromkeys(COMMANDS[name] for name in ((first,) if first in names else names)):
        importlib.import_module(f"troth.cli.{module}").register(tree)
    return tree


def _listed_only() -> None:
    """Never called: nothing else is on a command line that begins with one of `_LISTING`."""


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


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("version")(version)


def version(
    output: Annotated[
        Literal["text", "json"], typer.Option("--output", "-o", help="As text or as JSON.")
    ] = "text",
) -> int:
    """Print the version."""
    if output == "json":
        told = {"schema": "troth/version/v1", "version": __version__}
        sys.stdout.write(f"{json.dumps(told, indent=2)}\n")
    else:
        sys.stdout.write(f"troth {__version__}\n")
    return 0


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
        arguments = arguments or ["--help"]
        tree = command_tree(arguments[0], as_plugin=as_plugin)
        name = PLUGIN if as_plugin else "troth"
        result = tree(arguments, prog_name=name, standalone_mode=False)
    except typer.Abort:
        return 1
    except typer.TyperException as error:
        _complain(_message(error, arguments, as_plugin=as_plugin))
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


def _message(error: typer.TyperException, arguments: list[str], *, as_plugin: bool) -> str:
    """What is wrong with a command line."""
    if isinstance(error, typer.BadParameter) and error.param is None:
        return error.message  # ours: it names what it is about
    message = error.format_message()
    if message.startswith("No such command") and "Did you mean" not in message:
        names = PLUGIN_COMMANDS if as_plugin else tuple(COMMANDS)
        near = nearest(arguments[0], names) if arguments else ""
        return f"{message} {near or 'There are: ' + ', '.join(names)}".rstrip()
    return message


def _complain(*errors: object) -> None:
    # Here, because it takes a while, and most commands have nothing to complain of.
    from rich.markup import escape  # noqa: PLC0415

    from troth.cli.console import err  # noqa: PLC0415 - see above

    for error in errors:
        err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
