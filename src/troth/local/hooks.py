"""Lifecycle hooks of containers (``Lifecycle`` of core/v1), as the kubelet runs them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from troth.errors import TrothError
from troth.local.probe import http_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from troth.sources.workloads import Hook


async def run_hook(
    hook: Hook,
    *,
    netns: Path,
    address: str,
    execute: Callable[[tuple[str, ...]], Awaitable[int]],
) -> str:
    """Run a hook to its end, however long that takes; empty if it worked, else what was wrong.

    Args:
        hook: What to do. Any answer to an ``httpGet`` will do, whatever its status.
        netns: The pod's network namespace.
        address: The pod's, which is where ports are asked.
        execute: Runs a command in the container and gives its exit code.
    """
    try:
        if hook.command is not None:
            code = await execute(hook.command)
            return f"{hook.command[0]} ended with exit code {code}" if code else ""
        if hook.http_get is not None:
            await http_status(hook.http_get, netns, address)
            return ""
        await asyncio.sleep(hook.sleep or 0)
    except (OSError, TrothError, asyncio.IncompleteReadError, ValueError) as error:
        return str(error)
    return ""
