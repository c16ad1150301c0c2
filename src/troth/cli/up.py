"""`troth up` and `troth down`."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from troth.cli.console import counted, err
from troth.cli.options import (
    KeepaliveOption,
    PodConnectionsOption,
    RootNamespaceOption,
    TrustDomainOption,
)
from troth.control.messages import MeshStatus
from troth.control.protocol import ask, call
from troth.control.state_dir import AuthorityFiles, Settings, StateDirectory
from troth.errors import EnvironmentLackError, InputError, PeerError, Problem, Severity
from troth.identity.spiffe import DEFAULT_TRUST_DOMAIN, TrustDomain
from troth.local.init import ENDING
from troth.local.outside import Ending, Outside, is_privileged
from troth.local.overrides import parse_command, read_overrides
from troth.manifests.runnable import ignored_notice, told_together
from troth.mesh.model import PodPhase
from troth.mesh.world import DEFAULT_ROOT_NAMESPACE
from troth.sockets import KEEPALIVE_SECONDS, LISTEN, ListenAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_POLL_SECONDS = 0.05
_SILENT_SECONDS = 1.0
"""How long a mesh that ends may take before it is said what it waits for."""

_STEADY_SECONDS = 0.4
"""How long every process has to run before the mesh is called ready: bad commands end sooner."""

_STEADY_AGAIN_SECONDS = 3.0
"""The same if one of them has ended before."""

_UNREADY_SECONDS = 5.0
"""How long a mesh that is ready waits for its apps to say so as well."""


_STANDARD_INPUT = Path("-")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("up")(up)
    app.command("down")(down)


def up(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Manifest files and directories.", metavar="PATH"),
    ] = None,
    filenames: Annotated[
        list[Path] | None,
        typer.Option(
            "--filename", "-f", metavar="PATH", help="The same as PATH; - for standard input."
        ),
    ] = None,
    kustomize: Annotated[
        Path | None,
        typer.Option(
            "--kustomize",
            "-k",
            metavar="DIR",
            help="Manifests that kustomize makes of this directory as it is now.",
        ),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option("--detach", "-d", help="Return when the mesh is ready; stop it with down."),
    ] = False,
    timeout: Annotated[
        int, typer.Option(help="How long to wait until it is ready, in seconds.", min=1)
    ] = 30,
    root_namespace: RootNamespaceOption = DEFAULT_ROOT_NAMESPACE,
    trust_domain: TrustDomainOption = DEFAULT_TRUST_DOMAIN,
    certificate_lifetime: Annotated[
        int, typer.Option(help="Life of a workload's certificate, in seconds.", min=10)
    ] = 12 * 3600,
    ca_cert: Annotated[
        Path | None, typer.Option(help="Sign with this CA certificate (PEM), root or intermediate.")
    ] = None,
    ca_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    ca_chain: Annotated[
        Path | None, typer.Option(help="The certificates between it and the root (PEM).")
    ] = None,
    ca_root: Annotated[Path | None, typer.Option(help="The root (PEM), if it is not one.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar=LISTEN,
            help="Show Prometheus the agent's metrics at /metrics there; the port is one of the "
            "mesh's own network, the socket is on this machine.",
        ),
    ] = None,
    max_connections_per_pod: PodConnectionsOption = None,
    writable: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Let containers change these files of this machine; of all others they change "
            "copies of their own.",
        ),
    ] = None,
    command: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMESPACE/WORKLOAD[/CONTAINER]=COMMAND",
            help="What a container runs that has no command, as its image's is not known; its args "
            "stay. Without CONTAINER the first one.",
        ),
    ] = None,
    overrides: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Commands, args, env and workingDir of containers instead of the manifests' "
            "(YAML: NAMESPACE/WORKLOAD[/CONTAINER]: {command: [app]}).",
        ),
    ] = None,
    claims: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Keep persistent volume claims in this directory, as NAMESPACE/NAME. It must "
            "exist. By default they end with the mesh.",
        ),
    ] = None,
    keepalive_seconds: KeepaliveOption = KEEPALIVE_SECONDS,
) -> int:
    """Start a mesh from Kubernetes manifests, on this machine, and keep it as they say.

    Pods run as processes in network namespaces of their own; edits of the files take effect at
    once. Works as root and as a plain user. Ctrl-C or `troth down` ends it and leaves nothing. Pods
    then have their terminationGracePeriodSeconds to end; another Ctrl-C ends them at once.

    With --detach, the exit code is 1 when it isn't ready in time, or something in the manifests was
    refused; it goes on all the same.
    """
    named = [*(paths or ()), *(filenames or ())]
    made = [sys.stdin.buffer.read()] if _STANDARD_INPUT in named else []
    if kustomize is not None:
        made.append(kustomized(kustomize))
    files = [path for path in named if path != _STANDARD_INPUT]
    if not files and not made:
        raise typer.BadParameter("name a file or directory of manifests, or - for standard input")
    settings = Settings(
        paths=_existing(files),
        root_namespace=root_namespace,
        trust_domain=str(TrustDomain.parse(trust_domain)),
        certificate_lifetime_seconds=certificate_lifetime,
        authority=_authority(ca_cert, ca_key, ca_chain, ca_root),
        uplink=is_privileged(),
        metrics=ListenAddress.parse(metrics, option="--metrics") if metrics else None,
        pod_connections=max_connections_per_pod,
        writable=_existing(writable or ()),
        keepalive_seconds=keepalive_seconds,
        claims=_existing([claims])[0] if claims else "",
        overrides=(
            *(read_overrides(overrides) if overrides else ()),
            *map(parse_command, command or ()),
        ),
    )
    outside = Outside(StateDirectory())
    began = time.monotonic()
    _handle_signals(_interrupt)
    mesh = outside.start(settings, detach=detach, manifests=made)
    if not detach:
        threading.Thread(target=_print_notices, args=(outside,), daemon=True).start()
    try:
        waiting = _wait(outside, timeout)
        _print_readiness(waiting, time.monotonic() - began)
        if not detach:
            return _stay(outside, mesh)
        refused = _print_problems(outside)
    except BaseException:
        _handle_signals(signal.SIG_IGN)
        outside.stop(grace=0)
        raise
    return 1 if waiting or refused else 0


def down(
    grace_period: Annotated[
        float | None,
        typer.Option(
            "--grace-period",
            "--grace",
            help="Seconds that pods may take to end, if less than their own grace periods.",
            min=0,
            metavar="SECONDS",
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="End all pods at once.")] = False,
) -> int:
    """Stop the mesh and remove everything it made; also what a killed one left behind.

    Each pod has its terminationGracePeriodSeconds to end. Ctrl-C ends those at once that are left.
    """
    if _end(Outside(StateDirectory()), 0 if now else grace_period):
        err.print("stopped")
    else:
        err.print("nothing to stop")
    return 0


def _end(outside: Outside, grace: float | None = None) -> bool:
    """Stop a mesh, as of `Outside.stop`; when we are told to end meanwhile, at once."""
    _handle_signals(_interrupt)
    try:
        _follow_end(outside, grace)
        # The rest takes but a moment, and one more Ctrl-C would leave half of the mesh's traces.
        _handle_signals(signal.SIG_IGN)
    except KeyboardInterrupt:  # and what comes after it is ignored, too
        err.print("ending them at once")
        grace = 0
    return outside.stop(grace)


def _follow_end(outside: Outside, grace: float | None) -> None:
    """Have the mesh end, and say what it waits for if that takes a while."""
    newest: list[Ending] = []
    ended = threading.Event()

    def say() -> None:
        if not ended.wait(_SILENT_SECONDS) and newest and newest[-1].pods:
            pods, seconds = newest[-1].pods, newest[-1].seconds
            names = escape(", ".join(pods[:3])) + (" and others" if pods[3:] else "")
            err.print(
                f"waiting up to {seconds:.0f} s for {names} to end; Ctrl-C ends them at once",
                soft_wrap=True,
            )

    threading.Thread(target=say, daemon=True).start()
    try:
        for each in outside.ending(grace):
            newest[:] = [each]
    finally:
        ended.set()


def _wait(outside: Outside, timeout: float) -> tuple[str, ...]:
    """Wait until the mesh is ready, and a little for its pods; what is missing after all that."""
    waiting: tuple[str, ...] = ()
    with err.status("starting") as status:
        try:
            for waiting in outside.progress(seconds=timeout):
                status.update(f"waiting for {escape(waiting[0])}" + _and_more(waiting))
        except TimeoutError:
            return waiting or ("its start",)  # it had no time to say what
        until = time.monotonic() + _UNREADY_SECONDS
        runs, since = None, time.monotonic()
        while True:
            mesh = _status(outside)
            now = time.monotonic()
            ended = _ended(mesh)
            missing = mesh.waiting_for or _unready(mesh)
            steady = _STEADY_SECONDS if not ended else _STEADY_AGAIN_SECONDS
            before, runs = runs, {each.pid for pod in mesh.pods for each in pod.containers}
            if runs != before:
                since = now
            if not missing and now - since >= steady:
                return ()
            if now > until:
                return mesh.waiting_for or ended
            missing = missing or ("what runs to go on running",)
            status.update(f"waiting for {escape(missing[0])}" + _and_more(missing))
            time.sleep(_POLL_SECONDS)


def _print_readiness(waiting: Sequence[str], seconds: float) -> None:
    if waiting:
        err.print(f"[yellow]not ready[/yellow] after {seconds:.1f} s; the mesh runs, but without:")
    else:
        err.print(f"[green]ready[/green] after {seconds:.1f} s")
    for blocker in waiting:
        err.print(f"  {escape(blocker)}", soft_wrap=True)


def _unready(mesh: MeshStatus) -> tuple[str, ...]:
    """Pods that run and whose readiness probes don't succeed yet: Services leave them out."""
    return tuple(
        f"{pod.namespace}/{pod.name}'s readiness"
        for pod in mesh.pods
        if pod.phase is PodPhase.RUNNING and not pod.ready
    )


def _ended(mesh: MeshStatus) -> tuple[str, ...]:
    """Containers that have ended already, and been started again."""
    return tuple(
        f"{name}: container {each.name}: ended and was started again "
        f"{counted(each.restarts, 'time')}; `troth logs --previous {name}` shows what it wrote"
        for pod in mesh.pods
        for name in (f"{pod.namespace}/{pod.name}",)
        for each in pod.containers
        if each.restarts
    )


def _stay(outside: Outside, mesh: subprocess.Popen[bytes]) -> int:
    """Wait until the mesh ends or we are told to end it."""
    try:
        err.print("Ctrl-C ends it. In another shell: troth status, troth events -f", style="dim")
        code = mesh.wait()
    except KeyboardInterrupt:
        code = 0
        err.print("stopping")
    _end(outside)
    return 1 if code else 0


def _interrupt(number: int, _frame: object) -> None:
    """A signal handler that has us clean up and end; what comes after it is not to disturb that."""
    _handle_signals(signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def _handle_signals(handler: Callable[[int, object], None] | signal.Handlers) -> None:
    for number in ENDING:
        signal.signal(number, handler)


def _status(outside: Outside) -> MeshStatus:
    return ask(outside.state.control, "status", MeshStatus)


def _print_problems(outside: Outside) -> bool:
    """Print what isn't run as the manifests say; whether some of it was refused.

    In the foreground the notices tell it.
    """
    mesh = _status(outside)
    for kind in mesh.ignored:
        err.print(escape(ignored_notice(kind)), soft_wrap=True)
    for severity, text in told_together(mesh.problems):
        err.print(f"[yellow]{severity}:[/yellow] {escape(text)}", soft_wrap=True)
    return any(problem.severity is Severity.ERROR for problem in mesh.problems)


def _print_notices(outside: Outside) -> None:
    """Print what happens, from the beginning, until the mesh ends."""
    while not outside.state.control.exists():
        time.sleep(_POLL_SECONDS)
    try:
        for line in call(outside.state.control, "notices"):
            err.print(escape(line["notice"]), soft_wrap=True)
    except Exception:  # noqa: BLE001 - the mesh ended, in whatever way
        return


def _and_more(waiting: Sequence[str]) -> str:
    return f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""


def kustomized(directory: Path) -> bytes:
    """What kustomize makes of a directory.

    Raises:
        EnvironmentLackError: It isn't there.
        PeerError: It refuses.
    """
    _existing([directory])
    for tool, command in (("kustomize", "build"), ("kubectl", "kustomize")):
        if shutil.which(tool):
            made = subprocess.run(
                [tool, command, str(directory.resolve())], capture_output=True, check=False
            )
            if made.returncode:
                said = made.stderr.decode(errors="replace").strip()
                raise PeerError(tool, said or f"ended with exit code {made.returncode}")
            return made.stdout
    raise EnvironmentLackError(
        "neither kustomize nor kubectl is installed", "install one of them, or give plain manifests"
    )


def _existing(paths: Sequence[Path]) -> tuple[str, ...]:
    missing = [
        Problem(
            subject=str(path), path="", found="does not exist", wanted="name a file or directory"
        )
        for path in paths
        if not path.exists()
    ]
    if missing:
        raise InputError(missing)
    return tuple(str(path.resolve()) for path in paths)


def _authority(
    certificate: Path | None, key: Path | None, chain: Path | None, root: Path | None
) -> AuthorityFiles | None:
    given = [path for path in (certificate, key, chain, root) if path is not None]
    if not given:
        return None
    _existing(given)
    if certificate is None or key is None:
        raise InputError(
            [
                Problem(
                    subject="--ca-cert and --ca-key",
                    path="",
                    found="only one of them is given",
                    wanted="give both, or none to have an authority made for this run",
                )
            ]
        )
    return AuthorityFiles(
        certificate=str(certificate.resolve()),
        key=str(key.resolve()),
        chain=str(chain.resolve()) if chain else "",
        root=str(root.resolve()) if root else "",
    )
