"""Simulated nodes: what a node agent does with the API, and nothing of what follows.

A program of its own, so that it runs on a machine of the cluster and its traffic can be counted:
``follower.py KUBECONFIG FOLLOWERS WATCHERS``. A follower is a whole
`troth.cluster.state.follow` and tells how late it hears of each change; a watcher reads each
event of the pods as a follower does, and no more. It says ``ready``, goes on until its standard
input ends, and then says what it saw.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from lightkube import KubeConfig

from benchmarks.rig.population import changing_uids
from troth.cluster.state import PODS, follow
from troth.kube.client import ApiClient
from troth.kube.reflector import Upserted

if TYPE_CHECKING:
    from lightkube import SingleConfig

WRITTEN_LABEL = "written-at"
"""On a pod: the clock (``CLOCK_MONOTONIC``, in nanoseconds) when its last change was sent."""

_WATCH_SECONDS = 600.0


class Seen(msgspec.Struct, kw_only=True):
    """What simulated nodes have seen.

    Attributes:
        lateness_ms: Of each change at each follower, since it was sent.
        events: How many all watchers have read.
        states: How many all followers were given.
    """

    lateness_ms: list[float] = []
    events: int = 0
    states: int = 0


async def _follow(config: SingleConfig, number: int, seen: Seen, ready: asyncio.Barrier) -> None:
    written: dict[str, str] = {}
    is_first = True
    async with aclosing(follow(config, node_name=f"remote-{number}")) as states:
        async for state in states:
            now = time.monotonic_ns()
            seen.states += 1
            for uid in changing_uids():
                label = state.pods[uid].labels.get(WRITTEN_LABEL, "")
                if label != written.get(uid, ""):
                    written[uid] = label
                    if not is_first:
                        seen.lateness_ms.append((now - int(label)) / 1e6)
            if is_first:
                is_first = False
                await ready.wait()


async def _watch(server: ApiClient, version: str, seen: Seen, ready: asyncio.Barrier) -> None:
    await ready.wait()
    async with aclosing(server.watch(PODS, version, seconds=_WATCH_SECONDS)) as events:
        async for event in events:
            seen.events += isinstance(event, Upserted)


async def _main(kubeconfig: Path, followers: int, watchers: int) -> None:
    config = KubeConfig.from_file(kubeconfig).get()
    if config is None:
        raise ValueError(f"{kubeconfig} has no context")
    seen = Seen()
    ready = asyncio.Barrier(followers + watchers + 1)
    servers = [ApiClient(config) for _ in range(watchers)]  # a connection each, as nodes have
    version = ""
    if servers:
        version = (await servers[0].list(PODS)).version
    tasks = [asyncio.create_task(_follow(config, n, seen, ready)) for n in range(followers)]
    tasks += [asyncio.create_task(_watch(server, version, seen, ready)) for server in servers]
    await ready.wait()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for server in servers:
        await server.aclose()
    sys.stdout.write(msgspec.json.encode(seen).decode() + "\n")


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
