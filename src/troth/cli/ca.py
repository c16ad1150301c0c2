"""`troth ca`: the root of a cluster's mesh."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.markup import escape

from troth.cli.console import Output, OutputOption, err, out, print_json, print_tables
from troth.cli.options import ClusterContextOption, ClusterKubeconfigOption
from troth.mesh.world import DEFAULT_HOME
from troth.rows import Rows

if TYPE_CHECKING:
    from rich.console import RenderableType

    from troth.controller.rotation import RootRotation, RotationState

_LOOK_SECONDS = 1.0
_IMPATIENT_LOOKS = 10

_NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", metavar="NAMESPACE", help="The controller's.")
]

_PHASES = {
    "stable": "one root signs and is believed",
    "distributing": "the new root is brought to every node; the old one signs",
    "switched": "the new root signs; the old one is believed until nothing of it is in use",
}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="See and replace the root certificate of a cluster's mesh.")
    group.command("status")(status)
    group.command("rotate")(rotate)
    app.add_typer(group, name="ca", no_args_is_help=True)


def status(
    namespace: _NamespaceOption = DEFAULT_HOME,
    kubeconfig: ClusterKubeconfigOption = None,
    context: ClusterContextOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show the roots that the mesh believes in, and how their rotation stands.

    The exit code is 0, also while a rotation is under way.
    """
    state = asyncio.run(_state(namespace, kubeconfig, context))
    if output is Output.JSON:
        print_json(state)
    else:
        print_tables(render_state(state))
    return 0


def rotate(
    namespace: _NamespaceOption = DEFAULT_HOME,
    kubeconfig: ClusterKubeconfigOption = None,
    context: ClusterContextOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> int:
    """Replace the root in phases, without losing a connection, and follow until it is done.

    The controller does it; to stop watching (Ctrl-C) does not stop the rotation. The exit code is 0
    when the old root is believed no more, and 1 when the controller refuses.
    """
    if not yes:
        typer.confirm("Replace the root that every workload of the mesh believes in?", abort=True)
    return asyncio.run(_rotate(namespace, kubeconfig, context))


async def _state(namespace: str, kubeconfig: Path | None, context: str | None) -> RotationState:
    async with aclosing(_rotation(namespace, kubeconfig, context)) as rotation:
        return await rotation.state()


async def _rotate(namespace: str, kubeconfig: Path | None, context: str | None) -> int:
    async with aclosing(_rotation(namespace, kubeconfig, context)) as rotation:
        if (await rotation.state()).at_rest:
            await rotation.request()
        else:
            err.print("a rotation is under way already")
        return await _follow(rotation)


async def _follow(rotation: RootRotation) -> int:
    told = ""
    looks = 0
    while not (state := await rotation.state()).at_rest:
        words = _progress(state)
        if words != told:
            out.print(words, soft_wrap=True)
            told = words
        looks += 1
        if state.requested and state.phase == "stable" and looks > 1:
            if why := await rotation.refusal():
                err.print(
                    f"[red]error:[/red] the controller refuses: {escape(why)}", soft_wrap=True
                )
                return 1
            if looks == _IMPATIENT_LOOKS:
                err.print("the controller has not begun; see that it runs: troth-controller")
        await asyncio.sleep(_LOOK_SECONDS)
    out.print("[green]done[/green]: the new root signs and is the only one that is believed")
    return 0


def _progress(state: RotationState) -> str:
    if state.requested and state.phase == "stable":
        return "asked for: waiting for the controller"
    waiting = f"; waiting for {_some(state.waiting_for)}" if state.waiting_for else ""
    return f"[bold]{state.phase}[/bold]: {_PHASES[state.phase]}{escape(waiting)}"


def _some(items: tuple[str, ...], most: int = 3) -> str:
    shown = ", ".join(items[:most])
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown


def render_state(state: RotationState) -> RenderableType:
    """All of it, for people."""
    rows = Rows("ROOT (SHA-256)", "VALID UNTIL", "SIGNS")
    for root in state.roots:
        rows.add_row(root.fingerprint, f"{root.not_after:%Y-%m-%d}", "yes" if root.signs else "no")
    since = f", since {state.since:%Y-%m-%d %H:%M:%S} UTC" if state.since else ""
    return Group(rows, "", _progress(state) + since)


def _rotation(namespace: str, kubeconfig: Path | None, context: str | None) -> RootRotation:
    # Its client of the Kubernetes API takes long to load, which other commands needn't wait for.
    from troth.controller.rotation import RootRotation  # noqa: PLC0415
    from troth.kube.config import cluster_config  # noqa: PLC0415

    return RootRotation(cluster_config(kubeconfig, context), namespace)
