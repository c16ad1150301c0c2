"""The taint that keeps pods from a new node until its agent can capture them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from troth.errors import TrothError
from troth.kube import wire
from troth.kube.errors import ConflictError, NotFoundError
from troth.kube.resource import ObjectKind
from troth.retry import Backoff

if TYPE_CHECKING:
    from troth.kube.client import ApiClient

_log = structlog.get_logger(__name__)

STARTUP_TAINT = "troth.dev/agent-not-ready"
"""Its key, whatever its value and effect."""

_FIRST_RETRY_SECONDS = 0.2
_LONGEST_RETRY_SECONDS = 10.0


class _Spec(wire.Wire, frozen=True):
    taints: list[dict[str, Any]] | None = None


class _TaintedNode(wire.Wire, frozen=True):
    metadata: wire.Header
    spec: _Spec = _Spec()


_KIND = ObjectKind(kind="Node", plural="nodes", shape=_TaintedNode)


async def take_off(client: ApiClient, node: str) -> None:
    """Take the taint off a node, however often that has to be tried.

    Args:
        client: Of the API server; it takes the right to get and patch nodes.
        node: Its name.
    """
    backoff = Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
    while True:
        try:
            found = await client.get(_KIND, node)
            taints = found.spec.taints or []
            left = [each for each in taints if each.get("key") != STARTUP_TAINT]
            if len(left) == len(taints):
                return
            # The version, because the list as a whole is replaced.
            change = {
                "metadata": {"resourceVersion": found.metadata.resource_version},
                "spec": {"taints": left or None},
            }
            await client.patch(_KIND, node, change)
        except ConflictError:
            continue
        except NotFoundError:
            return
        except TrothError as error:
            _log.warning("the startup taint stays on the node", reason=str(error))
            await asyncio.sleep(backoff.next())
        else:
            _log.info("took the startup taint off the node")
            return
