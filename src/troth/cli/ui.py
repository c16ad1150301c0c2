"""`troth ui`."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer
from rich.markup import escape

from troth.cli.asked import asked_mesh
from troth.cli.console import err, out
from troth.cli.options import (
    TIMEOUT_SECONDS,
    TROTH_NAMESPACE,
    AllNodesOption,
    AskedNamespaceOption,
    ContextOption,
    KubeconfigOption,
    TimeoutOption,
    TrothNamespaceOption,
)
from troth.errors import EnvironmentLackError

_EVERY_SECONDS, _EVERY_SECONDS_OF_CLUSTER = 1.0, 10.0


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("ui")(ui)


def ui(
    ctx: typer.Context,
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT", help="Listen there, on 127.0.0.1; 0 for any.", min=0, max=65535
        ),
    ] = 0,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: AskedNamespaceOption = None,
    all_nodes: AllNodesOption = False,
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    troth_namespace: TrothNamespaceOption = TROTH_NAMESPACE,
) -> int:
    """Show a running mesh on a page: who talks to whom, how, and what is refused and why.

    Prints an address that opens it in one browser, once, and serves until Ctrl-C, to this machine
    alone. In a cluster it is about one namespace. The page only looks: it changes nothing.
    """
    missing = [name for name in ("networkx", "starlette", "uvicorn") if not _is_there(name)]
    if missing:
        raise EnvironmentLackError(
            f"the page needs {', '.join(missing)}", "install troth with its extra: troth[ui]"
        )
    mesh = asked_mesh(
        ctx,
        context=context,
        kubeconfig=kubeconfig,
        namespace=namespace,
        home=troth_namespace,
        everywhere=all_nodes,
        seconds=timeout,
    )
    # No other command needs what this imports.
    from troth.ask.by_socket import SocketMesh  # noqa: PLC0415
    from troth.ui.server import serve  # noqa: PLC0415

    mesh.audit(seconds=1)  # so that a mesh that isn't there is told here, and not on the page
    local = isinstance(mesh, SocketMesh)
    serve(
        mesh,
        port=port,
        every=_EVERY_SECONDS if local else _EVERY_SECONDS_OF_CLUSTER,
        on_listening=_print_address,
    )
    return 0


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _print_address(address: str) -> None:
    out.print(escape(address), soft_wrap=True, highlight=False)
    err.print("[dim]opens once, in one browser; Ctrl-C ends it[/dim]")
