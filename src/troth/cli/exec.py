"""`troth exec` and `troth logs`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from troth.control.protocol import call
from troth.control.state_dir import StateDirectory
from troth.errors import PeerError
from troth.local.launch import join_command
from troth.local.outside import Outside

_POLL_SECONDS = 0.1


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("exec", context_settings={"ignore_unknown_options": True})(execute)
    app.command("logs")(logs)


PodArgument = Annotated[
    str, typer.Argument(help="NAMESPACE/POD, or NAMESPACE/DEPLOYMENT for any one of its pods.")
]
ContainerOption = Annotated[
    str, typer.Option("--container", "-c", help="Which container, when there are several.")
]


def execute(
    pod: PodArgument,
    command: Annotated[
        list[str] | None, typer.Argument(help="What to run, after --.", metavar="-- CMD...")
    ] = None,
    container: ContainerOption = "",
    node: Annotated[
        bool,
        typer.Option(
            "--node",
            help="Run it on the node instead, beside Envoy and the pods' bridge; no POD then.",
        ),
    ] = False,
) -> int:
    """Run a command inside a pod, as one of its containers would.

    The exit code is the command's own.
    """
    state = StateDirectory()
    enter = Outside(state).enter_command()
    if node:
        _become([*enter, pod, *(command or ())])
    if not command:
        raise typer.BadParameter("give the command to run after --")
    spec = _find(state, pod, container).with_suffix(".json")
    _become([*enter, *join_command(spec, command)])


def logs(
    pod: PodArgument,
    container: ContainerOption = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
) -> int:
    """Print what a container wrote."""
    state = StateDirectory()
    _print_file(_find(state, pod, container).with_suffix(".log"), follow=follow)
    return 0


def _become(argv: list[str]) -> NoReturn:
    sys.stdout.flush()
    os.execvp(argv[0], argv)  # noqa: S606 - it takes our place


def _find(state: StateDirectory, pod: str, container: str) -> Path:
    """The container's files, without their suffix."""
    (answer,) = call(state.control, "find", name=pod)
    names = answer["containers"]
    if container and container not in names:
        raise PeerError(
            "troth",
            f"{answer['pod']} has no container {container!r}",
            f"it has: {', '.join(names)}",
        )
    files: Path = state.pods / answer["uid"] / (container or names[0])
    if not files.with_suffix(".json").exists():
        raise PeerError("troth", f"{answer['pod']} does not run yet", answer["waiting"])
    return files


def _print_file(path: Path, *, follow: bool) -> None:
    while not path.exists():  # it is made with the container's first output
        if not follow or not path.parent.exists():
            return
        time.sleep(_POLL_SECONDS)
    with path.open("rb") as file:
        while True:
            if chunk := file.read(65536):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            elif not follow or not path.exists():
                return
            elif not path.samefile(f"/proc/self/fd/{file.fileno()}"):
                break  # moved aside, because it was full
            else:
                time.sleep(_POLL_SECONDS)
    _print_file(path, follow=follow)
