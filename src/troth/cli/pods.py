"""What is done with the pods of the mesh on this machine, in kubectl's words."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from troth.cli.console import Output, OutputOption, err, out, print_json
from troth.control.messages import MeshStatus, PodDescription
from troth.control.protocol import ask, call
from troth.control.state_dir import StateDirectory
from troth.errors import InputError, PeerError, Problem
from troth.local.launch import join_command
from troth.local.outside import Outside
from troth.rows import Rows
from troth.syntax import nearest

_POLL_SECONDS = 0.1
_CHUNK = 65536
_LAST_PORT = 65535
_REFUSALS = 5

_KINDS = frozenset(
    {
        *("po", "pod", "pods", "deploy", "deployment", "deployments"),
        *("sts", "statefulset", "statefulsets", "ds", "daemonset", "daemonsets"),
        *("rs", "replicaset", "replicasets", "rc", "replicationcontroller"),
        *("job", "jobs", "cj", "cronjob", "cronjobs", "svc", "service", "services"),
    }
)
"""What kubectl lets stand before a name; with ``-n`` it may stand here, too."""

_CONDITIONS = ("ready", "available", "complete", "failed", "delete")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("exec", context_settings={"ignore_unknown_options": True})(execute)
    app.command("logs")(logs)
    app.command("port-forward")(port_forward)
    app.command("describe")(describe)
    app.command("restart")(restart)
    app.command("scale")(scale)
    app.command("wait")(wait)


PodArgument = Annotated[
    str,
    typer.Argument(
        help="NAMESPACE/POD, or NAMESPACE/WORKLOAD for any one of its pods; with -n the name alone."
    ),
]
NameArgument = Annotated[
    str, typer.Argument(help="NAMESPACE/WORKLOAD or NAMESPACE/POD; with -n the name alone.")
]
ContainerOption = Annotated[
    str, typer.Option("--container", "-c", help="Which container, when there are several.")
]
LocalNamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", metavar="NAMESPACE", help="The namespace of a name without one."
    ),
]


def execute(
    pod: PodArgument,
    command: Annotated[
        list[str] | None, typer.Argument(help="What to run, after --.", metavar="-- CMD...")
    ] = None,
    container: ContainerOption = "",
    namespace: LocalNamespaceOption = None,
    stdin: Annotated[
        bool,
        typer.Option("--stdin", "-i", help="Pass standard input on; it is passed on in any case."),
    ] = False,
    tty: Annotated[
        bool, typer.Option("--tty", "-t", help="Use our terminal; it is used in any case.")
    ] = False,
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
    if tty and not (stdin and sys.stdin.isatty()):
        err.print("Unable to use a TTY: give -i, too, and a terminal as standard input")
    spec = _find(state, full_name(pod, namespace), container).with_suffix(".json")
    _become([*enter, *join_command(spec, command)])


def logs(
    pod: PodArgument,
    container: ContainerOption = "",
    namespace: LocalNamespaceOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    tail: Annotated[
        int, typer.Option(metavar="LINES", help="Only so many of the last lines; -1 for all.")
    ] = -1,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Of the run before the container's last start.")
    ] = False,
) -> int:
    """Print what a container wrote since its last start; also of one that has ended."""
    state = StateDirectory()
    log = _find(state, full_name(pod, namespace), container).with_suffix(".log")
    if previous:
        log = log.with_suffix(".previous.log")
        if not log.exists():
            raise PeerError("troth", f"{pod} has not been started before", "leave out --previous")
    _print_file(log, follow=follow and not previous, tail=tail)
    return 0


def port_forward(
    pod: Annotated[
        str,
        typer.Argument(
            help="NAMESPACE/POD, NAMESPACE/WORKLOAD or NAMESPACE/SERVICE; with -n the name alone."
        ),
    ],
    ports: Annotated[
        list[str],
        typer.Argument(metavar="[LOCAL:]PORT...", help="A port there, and one of this machine."),
    ],
    namespace: LocalNamespaceOption = None,
    address: Annotated[
        str, typer.Option(metavar="IP", help="Where to listen on this machine.")
    ] = "127.0.0.1",
) -> int:
    """Lead connections to a port of this machine to one of a pod, until Ctrl-C.

    They reach the app from inside the pod, past its proxy and all policies, as with kubectl.
    LOCAL 0 or nothing before the colon takes any free port; without LOCAL it is the pod's own.
    """
    state = StateDirectory()
    enter = Outside(state).enter_command()
    (found,) = call(state.control, "find", name=full_name(pod, namespace), service=True)
    pairs = []
    for local, remote in map(_port_pair, ports):
        listener = socket.create_server((address, local), family=_family(address))
        target = found["ports"].get(str(remote), remote)
        os.set_inheritable(listener.fileno(), True)
        pairs.append((listener, target))
        shown = f"[{address}]" if ":" in address else address
        out.print(
            f"Forwarding from {shown}:{listener.getsockname()[1]} -> {target}", soft_wrap=True
        )
    netns = state.netns / found["uid"]
    given = (f"{listener.fileno()}:{target}" for listener, target in pairs)
    _become([*enter, sys.executable, "-m", "troth.local.forward", str(netns), *given])


def restart(name: NameArgument, namespace: LocalNamespaceOption = None) -> int:
    """End a workload's pods, or one pod, and start them anew from their manifests."""
    (answer,) = call(StateDirectory().control, "restart", name=full_name(name, namespace))
    for pod in answer["pods"]:
        out.print(f"{escape(pod)} restarted", soft_wrap=True)
    return 0


def scale(
    name: NameArgument,
    replicas: Annotated[int, typer.Option(help="How many pods there should be.", min=0, max=1000)],
    namespace: LocalNamespaceOption = None,
) -> int:
    """Have a workload run so many pods, until its manifest says another number than it does now."""
    control = StateDirectory().control
    (answer,) = call(control, "scale", name=full_name(name, namespace), replicas=replicas)
    out.print(f"{escape(answer['workload'])} scaled", soft_wrap=True)
    return 0


def wait(
    name: NameArgument,
    condition: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="CONDITION",
            help=f"What to wait for: {', '.join(_CONDITIONS)}; condition= may stand before it.",
        ),
    ] = "ready",
    namespace: LocalNamespaceOption = None,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="How long, such as 30s or 2m.")
    ] = "30s",
) -> int:
    """Wait until a workload's pods, a pod or a Job are as asked; the exit code is 1 if they aren't.

    ready and available are of pods, complete and failed of Jobs; delete waits until none is left.
    """
    wanted = condition.lower().removeprefix("condition=")
    if wanted not in _CONDITIONS:
        hint = nearest(wanted, _CONDITIONS) or f"write one of {', '.join(_CONDITIONS)}"
        raise _bad_option("--for", f"is {condition!r}", hint)
    key = full_name(name, namespace)
    until = time.monotonic() + _seconds(timeout)
    control = StateDirectory().control
    while not _is_so(ask(control, "status", MeshStatus), key, wanted):
        if time.monotonic() > until:
            state = "deleted" if wanted == "delete" else wanted
            err.print(f"timed out waiting for {escape(key)} to be {state}", soft_wrap=True)
            return 1
        time.sleep(_POLL_SECONDS)
    out.print(f"{escape(key)} condition met", soft_wrap=True)
    return 0


def describe(
    pod: PodArgument,
    namespace: LocalNamespaceOption = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show all of a pod: containers, identity, ports, Services that lead to it, last refusals."""
    control = StateDirectory().control
    found = ask(control, "describe", PodDescription, name=full_name(pod, namespace))
    if output is Output.JSON:
        print_json(found)
        return 0
    report = found.pod
    facts = {
        "Name": report.name,
        "Namespace": report.namespace,
        "Workload": report.workload,
        "Status": report.phase + ("" if report.ready else ", not ready"),
        "IPs": ", ".join(report.addresses),
        "Identity": report.identity or f"none: {report.why}",
        "Captured": "yes" if report.captured else f"no: {report.why}",
        "Mode": f"{report.mode}, by {report.decided_by}" if report.mode else "",
        "Services": ", ".join(found.services) or "none leads to it",
    }
    for name, value in facts.items():
        if value:
            out.print(f"{name + ':':<11}{escape(value)}", soft_wrap=True)
    for number, port in report.ports.items():
        text = f"port {number}: {port.mode}, by {port.decided_by}"
        out.print(f"{'':<11}{escape(text)}", soft_wrap=True)
    rows = Rows("CONTAINER", "STATE", "READY", "RESTARTS", "EXIT CODE", "WHY")
    for each in (*found.init_containers, *report.containers):
        code = "" if each.exit_code is None else str(each.exit_code)
        why = each.message or each.reason
        ready = "yes" if each.ready else "no"
        rows.add_row(escape(each.name), each.state, ready, str(each.restarts), code, escape(why))
    out.print()
    out.print(rows)
    for title, lines in (("What happened", found.notices), ("Last refusals", found.refusals)):
        if lines:
            out.print(f"\n{title}:")
            for line in lines:
                out.print(f"  {escape(line)}", soft_wrap=True)
    return 0


def full_name(name: str, namespace: str | None) -> str:
    """``NAMESPACE/NAME`` of a name that may be alone or, with ``-n``, ``KIND/NAME``."""
    kind, _, own = name.rpartition("/")
    if namespace is not None and (not kind or kind.lower() in _KINDS):
        return f"{namespace}/{own}"
    return name if kind else f"default/{name}"


def _is_so(mesh: MeshStatus, key: str, wanted: str) -> bool:
    pods = [each for each in mesh.pods if key in (f"{each.namespace}/{each.name}", each.workload)]
    if wanted == "delete":
        return not pods
    if wanted in ("complete", "failed"):
        jobs = [each for each in mesh.jobs if f"{each.namespace}/{each.name}" == key]
        return any(each.state == wanted for each in jobs)
    missing = any(each.startswith((f"{key}:", f"{key}-")) for each in mesh.waiting_for)
    return bool(pods) and not missing and all(each.ready for each in pods)


def _seconds(text: str) -> float:
    """Seconds of a duration such as ``30s``, ``2m``, ``1h`` or ``30``."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    if not number.isdecimal():
        raise _bad_option("--timeout", f"is {text!r}", "write a time such as 30s or 2m")
    return float(int(number) * units[unit])


def _port_pair(text: str) -> tuple[int, int]:
    local, colon, remote = text.rpartition(":")
    if not remote.isdecimal() or not 0 < int(remote) <= _LAST_PORT:
        raise _bad_option("PORT", f"is {text!r}", "write PORT or LOCAL:PORT, 1 to 65535")
    if local and not (local.isdecimal() and int(local) <= _LAST_PORT):
        raise _bad_option("PORT", f"is {text!r}", "write PORT or LOCAL:PORT, 1 to 65535")
    return int(local or 0) if colon else int(remote), int(remote)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _bad_option(subject: str, found: str, wanted: str) -> InputError:
    return InputError([Problem(subject=subject, path="", found=found, wanted=wanted)])


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


def _print_file(path: Path, *, follow: bool, tail: int = -1) -> None:
    while not path.exists():  # it is made with the container's first output
        if not follow or not path.parent.exists():
            return
        time.sleep(_POLL_SECONDS)
    with path.open("rb") as file:
        if tail >= 0:
            last = deque(file, maxlen=tail)
            sys.stdout.buffer.write(b"".join(last))
            sys.stdout.buffer.flush()
        while True:
            if chunk := file.read(_CHUNK):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            elif not follow or not path.exists():
                return
            elif not path.samefile(f"/proc/self/fd/{file.fileno()}"):
                break  # moved aside, as it was full or the container was started again
            else:
                time.sleep(_POLL_SECONDS)
    _print_file(path, follow=follow)
