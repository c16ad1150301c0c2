"""From writing a policy to the first refused plaintext connection, on that node.

Once with a file and `troth up`, and with a real API server and `troth node`, in a small mesh and in
big ones. The time of the API server's own write is part of it. All that takes part goes before what
else the machine does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e import manifests
from tests.e2e.harness import Host, Mesh

from benchmarks.framework import Benchmark, Figure, Run, absolute, median, percentile, ratio, short
from benchmarks.rig import probe as probe_program
from benchmarks.rig.changes import Change, Probe, tighten
from benchmarks.rig.node import Node
from benchmarks.rig.population import Size

if TYPE_CHECKING:
    from collections.abc import Iterator

_TARGET_MS = 50
_DEBOUNCE_MS = 100  # PILOT_DEBOUNCE_AFTER's default
_PORT = 7000
_FULL = Size()
_SMALL = Size(accounts=20, services=10, pods=100)
_HUGE = Size(accounts=400, services=1_000, pods=10_000)
_LOCAL_PODS = 50
_MESH = "bench-0"
# On a disk that others use, too, to replace a file can take 40 ms.
_IN_MEMORY = "/dev/shm"  # noqa: S108 - where directories with random names are made


def _run(run: Run) -> Iterator[Figure]:
    for pods in run.choose((2, _LOCAL_PODS), (2,)):
        yield from _figures(f"file, {pods} pods", _by_file(run, pods))
    sizes = run.choose((_SMALL, _FULL, _HUGE), (_SMALL,))
    changes = {size.pods: _by_api(run, size) for size in sizes}
    for pods, those in changes.items():
        yield from _figures(f"API server, {pods:,} pods", those)
    small = changes[_SMALL.pods]
    for pods, those in changes.items():
        if those is not small:
            yield ratio(
                f"API server, {pods:,} pods, scaling",
                [each.enforced_ms for each in those],
                [each.enforced_ms for each in small],
                to=f"with {_SMALL.pods}",
                unit="ms",
            )


def _figures(name: str, changes: list[Change]) -> Iterator[Figure]:
    enforced = [each.enforced_ms for each in changes]
    written = short(median([each.written_ms for each in changes]))
    yield absolute(
        f"{name}, p50",
        percentile(enforced, 50),
        unit="ms",
        note=f"of which writing it {written}; Istio waits {_DEBOUNCE_MS} before it begins",
    )
    after = short(percentile([each.after_ms for each in changes], 99).value)
    yield absolute(
        f"{name}, p99",
        percentile(enforced, 99),
        unit="ms",
        target=_TARGET_MS,
        note=f"{after} after it was written",
    )


def _by_file(run: Run, pods: int) -> list[Change]:
    run.step(f"starting a mesh of {pods} pods")
    pods_file = {"pods.yaml": manifests.document(_local(pods))}
    with Host() as host, Mesh(host, pods_file, files=_IN_MEMORY) as mesh:
        mesh.wait_ready()
        address = mesh.pod("shop/server")["addresses"][0]
        process = mesh.start("outside/client", *_command(address), **_PIPES)
        with Probe(process) as probe:
            return tighten(
                lambda mode: mesh.write("policy.yaml", json.dumps(_policy("shop", mode))),
                probe,
                run.rounds(200, 20, f"policies in a file, {pods} pods"),
            )


def _local(pods: int) -> Iterator[manifests.Object]:
    yield manifests.namespace("shop", mesh=True)
    yield manifests.namespace("outside", mesh=False)
    yield from manifests.server("shop/server", f"echo:{_PORT}")
    yield from manifests.server("outside/client")
    for number in range(pods - 1):
        yield from manifests.server(f"shop/other-{number}")


def _by_api(run: Run, size: Size) -> list[Change]:
    with Node(size, run.step) as node:
        run.step("starting pods")
        mesh = node.mesh
        address = node.serve(_MESH, "server")
        node.grow(run.choose(_LOCAL_PODS, 5))
        mesh.namespace("outside", in_mesh=False)
        mesh.client("outside", "client", node.name)
        process = node.cluster.start("outside", "client", *_command(address), **_PIPES)
        with Probe(process) as probe:
            return tighten(
                lambda mode: node.cluster.apply(_policy(_MESH, mode)),
                probe,
                run.rounds(200, 20, f"policies in an API server, {size.pods:,} pods"),
            )


_PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


def _command(address: str) -> tuple[str, ...]:
    return (sys.executable, str(Path(probe_program.__file__)), address, str(_PORT))


def _policy(namespace: str, mode: str) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"namespace": namespace, "name": "server"},
        "spec": {"selector": {"matchLabels": {"app": "server"}}, "mtls": {"mode": mode}},
    }


BENCHMARK = Benchmark(
    about="from writing a policy to the first refused plaintext connection",
    run=_run,
    needs_root=True,
)
