"""The node agent as a process: started, asked for its health, told to stop."""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING

import structlog

from troth.agent.cluster.node import ClusterNode
from troth.errors import TrothError
from troth.kube.config import program_config
from troth.program import configure_logs, keep_private, run_until_stopped

if TYPE_CHECKING:
    from troth.agent.cluster.settings import NodeSettings

_log = structlog.get_logger(__name__)


def run_node(settings: NodeSettings) -> int:
    """Run a node agent until SIGTERM.

    It stays until another agent has taken the node over, if one is to come, and its connections
    have ended. Its pods stay captured: without an agent their connections are refused rather than
    let through as they are.

    Args:
        settings: What to do.

    Returns:
        The exit code: 0 after an ordinary stop, 1 when it could not run.
    """
    configure_logs()
    _raise_file_limit()
    keep_private()
    failures: list[BaseException] = []
    try:
        config = program_config(settings.kubeconfig, otherwise="name a file with --kubeconfig")
        node = ClusterNode(config, settings)
        asyncio.run(run_until_stopped(node.run(), wind_down=node.drained))
    except* TrothError as group:
        failures += group.exceptions
    for failure in failures:
        _log.error("the node agent cannot run", reason=str(failure))
    return 1 if failures else 0


def _raise_file_limit() -> None:
    # A proxied connection takes four descriptors; the soft limit is often 1,024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
