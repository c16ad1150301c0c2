"""Pods that change at a steady rate, and what that costs whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx2
import msgspec
from lightkube import AsyncClient
from lightkube.resources.core_v1 import Pod

from benchmarks.rig.follower import WRITTEN_LABEL, Seen
from benchmarks.rig.population import CHANGING, pod_manifest
from benchmarks.rig.process import cpu_seconds, memory
from benchmarks.rig.reader import Taken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightkube import SingleConfig
    from tests.rig.harness import Cluster
    from tests.rig.machine import Machine
    from tests.rig.programs import Program

    from benchmarks.rig.population import Size

_PATIENCE_SECONDS = 60.0  # where the machine can't keep up with the rate, the figures say so
_REPOSITORY = Path(__file__).parents[2]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a program took over a while.

    Attributes:
        cores: Of CPU, on average.
        memory_mb: Resident at the end.
    """

    cores: float
    memory_mb: float


class Meter:
    """Measures programs of a machine while a block runs.

    Args:
        machine: Where they run.
        programs: Which.
    """

    def __init__(self, machine: Machine, *programs: Program) -> None:
        self._pids = {program.name: _pid(machine, program) for program in programs}
        self.usage: dict[str, Usage] = {}

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._before = {name: cpu_seconds(pid) for name, pid in self._pids.items()}
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.monotonic() - self._begun
        self.usage = {
            name: Usage(
                cores=(cpu_seconds(pid) - self._before[name]) / seconds,
                memory_mb=memory(pid).rss_mb,
            )
            for name, pid in self._pids.items()
        }


class SimulatedNodes(msgspec.Struct, kw_only=True):
    """What simulated nodes say when they have ended.

    Attributes:
        seen: What followers and watchers saw.
        taken: What readers took.
    """

    seen: Seen = msgspec.field(default_factory=Seen)
    taken: Taken = msgspec.field(default_factory=Taken)


@contextlib.contextmanager
def simulated_nodes(
    cluster: Cluster, machine: Machine, *, followers: int, watchers: int, readers: int
) -> Iterator[SimulatedNodes]:
    """`follower.py` and `reader.py`, running on a machine of a cluster while a block runs.

    Args:
        cluster: The cluster.
        machine: Which one.
        followers: How many whole nodes.
        watchers: How many that only read events.
        readers: How many that only take bytes.
    """
    kubeconfig = str(cluster.control_plane.kubeconfig())
    nodes = SimulatedNodes()
    with (
        _Simulation(machine, "follower", kubeconfig, str(followers), str(watchers)) as follower,
        _Simulation(machine, "reader", kubeconfig, str(readers)) as reader,
    ):
        yield nodes
    nodes.seen = msgspec.json.decode(follower.said, type=Seen)
    nodes.taken = msgspec.json.decode(reader.said, type=Taken)


class _Simulation:
    """A program that says ``ready``, goes on until its input ends, and then says what it saw."""

    def __init__(self, machine: Machine, module: str, *arguments: str) -> None:
        self._machine = machine
        self._argv = (sys.executable, "-m", f"benchmarks.rig.{module}", *arguments)
        self.said = ""

    def __enter__(self) -> Self:
        self._process: subprocess.Popen[str] = self._machine.start(
            *self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(_REPOSITORY)},
        )
        if self._process.stdout is None or self._process.stdout.readline() != "ready\n":
            raise ChildProcessError(f"{self._argv[2]} did not start")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._process.kill()
        self.said = self._process.communicate("")[0]
        if kind is None and self._process.returncode:
            raise ChildProcessError(f"{self._argv[2]} ended with {self._process.returncode}")


def change_pods(config: SingleConfig, size: Size, *, per_second: float, seconds: float) -> None:
    """Change one pod after the other at a steady rate, and write on each when that was."""
    asyncio.run(_change_pods(config, size, per_second, seconds))


async def _change_pods(config: SingleConfig, size: Size, per_second: float, seconds: float) -> None:
    client = AsyncClient(config, trust_env=False, timeout=httpx2.Timeout(_PATIENCE_SECONDS))
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(int(per_second * seconds)):
                await asyncio.sleep(begun + number / per_second - loop.time())
                tasks.create_task(_change(client, size, CHANGING[number % len(CHANGING)]))
    finally:
        await client.close()


async def _change(client: AsyncClient, size: Size, number: int) -> None:
    metadata = pod_manifest(size, number)["metadata"]
    labels = {WRITTEN_LABEL: str(time.monotonic_ns())}
    await client.patch(
        Pod,
        metadata["name"],
        {"metadata": {"labels": labels}},
        namespace=metadata["namespace"],
    )


def received_bytes(machine: Machine) -> int:
    """What has come to a machine from outside so far."""
    text = machine.run("cat", "/proc/net/dev").stdout
    (line,) = (line for line in text.splitlines() if line.strip().startswith("eth0:"))
    return int(line.partition(":")[2].split()[0])


def _pid(machine: Machine, program: Program) -> int:
    """The process of a program; the first in its cgroup is the one that entered the machine."""
    members = machine.cgroups.members(f"system.slice/{program.name}.service")
    return max(members, key=lambda pid: memory(pid).rss_mb)
