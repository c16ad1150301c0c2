"""`python -m benchmarks.soak --minutes 60`: a mesh under traffic and change, watched for leaks.

A mesh of `troth up` with 50 pods, IPv4 and IPv6. Clients send requests all the time, by connections
of their own and by some that stay open, while a policy of other pods is changed and another pod is
made anew, again and again. No request may fail, and neither Envoy nor the agent may grow.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer
from tests.e2e import manifests
from tests.e2e.client import PROGRAMS
from tests.e2e.harness import Host, Mesh

from benchmarks.framework import middle, short
from benchmarks.framework.ending import end_in_order
from benchmarks.framework.progress import ProgressLine
from benchmarks.rig.process import children, memory

if TYPE_CHECKING:
    from collections.abc import Iterator

_PODS = 50
_CHANGE_SECONDS = 5.0
_GROWTH = 1.1
_PART = 5  # of the samples are compared: the first fifth after the start with the last one
_MODES = ("STRICT", "PERMISSIVE", "DISABLE")


def soak(
    minutes: Annotated[float, typer.Option(help="How long.", min=0.1)] = 60.0,
    pods: Annotated[int, typer.Option(help="How many pods beside server and clients.")] = _PODS,
) -> None:
    """Run a mesh under traffic and change; exit 1 if a request failed or something grew."""
    with ProgressLine() as progress:
        progress.begin("soak")
        with Host() as host, Mesh(host, {"pods.yaml": manifests.document(_pods(pods))}) as mesh:
            mesh.wait_ready()
            pids = _processes(host)
            with _Load(mesh, "server") as by_ipv4, _Load(mesh, "server-6") as by_ipv6:
                samples: dict[str, list[float]] = {name: [] for name in pids}
                changes = round(minutes * 60 / _CHANGE_SECONDS)
                for number in range(changes):
                    progress.tell("changing", number, changes)
                    _change(mesh, number)
                    time.sleep(_CHANGE_SECONDS)
                    for name, pid in pids.items():
                        samples[name].append(memory(pid).rss_mb)
    failed = [*by_ipv4.failed, *by_ipv6.failed]
    grown = [name for name, those in samples.items() if _growth(those) > _GROWTH]
    for name, load in (("IPv4", by_ipv4), ("IPv6", by_ipv6)):
        typer.echo(f"{name}: {load.count:,} requests, {len(load.failed)} failed")
    for name, those in samples.items():
        begin, end = _ends(those)
        typer.echo(f"{name}: {short(begin)} MB resident at first, {short(end)} MB at last")
    for failure in failed[:10]:
        typer.echo(failure, err=True)
    raise typer.Exit(1 if failed or grown else 0)


class _Load:
    """Requests from a pod to a service, until the block ends."""

    def __init__(self, mesh: Mesh, service: str) -> None:
        self._process: subprocess.Popen[str] = mesh.start(
            f"shop/client-of-{service}",
            *(sys.executable, str(PROGRAMS / "load.py"), f"{service}.shop:8080"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.count = 0
        self.failed: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        out, _err = self._process.communicate("")
        told = json.loads(out.splitlines()[-1])
        self.count, self.failed = told["count"], told["failed"]


def _pods(count: int) -> Iterator[manifests.Object]:
    yield manifests.namespace("shop", mesh=True)
    yield manifests.namespace("other", mesh=True)
    yield from manifests.server("shop/server", "http:8080")
    for service, family in (("server", "IPv4"), ("server-6", "IPv6")):
        made = manifests.service(f"shop/{service}", 8080)
        single = {"ipFamilyPolicy": "SingleStack", "ipFamilies": [family]}
        made["spec"] |= single | {"selector": {"app": "server"}}
        yield made
        yield from manifests.server(f"shop/client-of-{service}")
    yield manifests.policy("shop/default", "STRICT")
    for number in range(count):
        yield from manifests.server(f"other/pod-{number}")


def _change(mesh: Mesh, number: int) -> None:
    """Another mode for other pods, and one of them made anew."""
    mode = _MODES[number % len(_MODES)]
    changing = manifests.server("other/changing", "http:8080", version=str(number))
    mesh.write(
        "changes.yaml", manifests.document([manifests.policy("other/default", mode), *changing])
    )


def _processes(host: Host) -> dict[str, int]:
    """Envoy, and the agent as the one that started it."""
    pending = [host.keeper]
    while pending:
        pid = pending.pop()
        for child in children(pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text("utf-8").strip() == "envoy":
                    return {"Envoy": child, "agent": pid}
            pending.append(child)
    raise LookupError("there is no Envoy")


def _growth(samples: list[float]) -> float:
    begin, end = _ends(samples)
    return end / begin


def _ends(samples: list[float]) -> tuple[float, float]:
    part = max(1, len(samples) // _PART)
    return middle(samples[part : 2 * part] or samples).value, middle(samples[-part:]).value


if __name__ == "__main__":
    end_in_order()
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(soak)
    app()
