"""What a node agent knows of the DaemonSet that it is of."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from tests.kube.fake_api import NAMESPACES, Object, fake_api, thing

from troth.agent.cluster.removal import Removal
from troth.kube.client import ApiClient

DAEMON_SETS = "/apis/apps/v1/namespaces/troth-system/daemonsets"


async def test_whether_the_next_agents_are_started_with_a_flag_is_known() -> None:
    async with fake_api() as api:
        api.kinds[DAEMON_SETS], api.faults[DAEMON_SETS] = {}, deque()
        await api.put(NAMESPACES, thing("troth-system"))
        for args in (["--cni", "--cni-state=/x"], ["--cni-state=/x"]):
            spec: Object = {"template": {"spec": {"containers": [{"name": "node", "args": args}]}}}
            await api.put(DAEMON_SETS, thing("troth-node", "troth-system", spec=spec))
            client = ApiClient(api.config)
            removal = Removal(client, namespace="troth-system")
            following = asyncio.create_task(removal.run())
            async with asyncio.timeout(20):
                while not removal.is_followed:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            assert removal.asks_for("--cni") is ("--cni" in args)
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            await client.aclose()
