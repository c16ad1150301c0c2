"""The node agent as a process: started, asked for its health, told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from typing import TYPE_CHECKING

import structlog

from troth import _log as logs
from troth.cluster._node import ClusterNode
from troth.errors import TrothError
from troth.sources.kubernetes import program_config

if TYPE_CHECKING:
    from pathlib import Path

    from troth.cluster._settings import NodeSettings

_log = structlog.get_logger(__name__)


def run_node(settings: NodeSettings, *, kubeconfig: Path | None = None) -> int:
    """Run a node agent until SIGTERM.

    If another agent has taken the node over by then, it stays until its connections have ended. If
    not, its pods stay captured: until the next agent is there, their connections are refused rather
    than let through as they are.

    Args:
        settings: What to do.
        kubeconfig: How to reach the API server; otherwise by the pod's service account, or as
            KUBECONFIG says.

    Returns:
        The exit code: 0 after an ordinary stop, 1 when it could not run.
    """
    logs.configure()
    _raise_file_limit()
    failures: list[BaseException] = []
    try:
        config = program_config(kubeconfig, otherwise="name a file with --kubeconfig")
        asyncio.run(_run_until_stopped(ClusterNode(config, settings)))
    except* TrothError as group:
        failures += group.exceptions
    for failure in failures:
        _log.error("the node agent cannot run", reason=str(failure))
    return 1 if failures else 0


async def _run_until_stopped(node: ClusterNode) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = asyncio.create_task(node.run())
    stopped = asyncio.create_task(_stopped(stop, node))
    await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not running.done():
        _log.info("stopping")
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _stopped(stop: asyncio.Event, node: ClusterNode) -> None:
    await stop.wait()
    await node.drained()


def _raise_file_limit() -> None:
    # A proxied connection takes four descriptors; the soft limit is often 1,024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
