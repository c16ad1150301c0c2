"""Two agents at one pod: whose Envoy its connections are led to, judged by the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from troth.agent import netns
from troth.agent.capture import PROBE_SOURCE_V4, capture, is_captured
from troth.agent.capturer import Capturer
from troth.agent.pods import Pods
from troth.mesh.model import Pod
from troth.mesh.ports import PORT_SETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.conftest import InNode

    from troth.mesh.ports import PortSet

OLD, NEW = PORT_SETS


@contextlib.contextmanager
def envoy(pod: Path, ports: PortSet) -> Iterator[None]:
    """Somebody who listens where an Envoy would."""
    with contextlib.ExitStack() as ends:
        for port in ports:
            server = ends.enter_context(netns.socket_in(pod, socket.AF_INET))
            server.bind(("127.0.0.1", port))
            server.listen()
        yield


def capturer(ports: PortSet) -> Capturer:
    return Capturer(Pods(grace=0.0), ports=ports)


def led_to(pod: Path) -> PortSet | None:
    """Where connections that leave the pod end up."""
    with netns.socket_in(pod, socket.AF_INET) as client:
        client.settimeout(5)
        client.connect(("10.9.9.9", 80))
        table = netns.call_in(pod, tcp_table)
    established = [line.split() for line in table.splitlines()[1:] if line.split()[3] == "01"]
    servers = {int(fields[1].rpartition(":")[2], 16) for fields in established}
    return next((ports for ports in PORT_SETS if ports.outbound in servers), None)


def tcp_table() -> str:
    return Path("/proc/thread-self/net/tcp").read_text()


def known(*, captured: bool) -> Mapping[str, Pod]:
    pod = Pod(
        uid="a", namespace="n", name="a", ready=True, captured=captured, addresses=("10.9.9.1",)
    )
    return {"a": pod}


def routed_pod(directory: Path) -> Path:
    pod = directory / "pod"
    netns.create(pod)
    asyncio.run(_route(pod))
    return pod


async def _route(pod: Path) -> None:
    command = (*netns.enter_command(pod), "ip", "route", "add", "default", "dev", "lo")
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0


def a_pod_goes_over_to_the_new_agents_envoy_and_back(directory: Path) -> None:
    pod = routed_pod(directory)

    async def scene() -> None:
        old, new = capturer(OLD), capturer(NEW)
        for agent, told in ((old, False), (new, True)):
            agent.see({"a": pod}, known(captured=told))
            await agent.act({"a"}, {})
            assert not agent._pods.refused
            assert await asyncio.to_thread(led_to, pod) == agent._ports
        old.see({"a": pod}, known(captured=True))
        await old.act({"a"}, {})
        assert await asyncio.to_thread(led_to, pod) == NEW
        old._pods.take_charge(())
        await old.act({"a"}, {})
        assert await asyncio.to_thread(led_to, pod) == OLD

    with envoy(pod, OLD), envoy(pod, NEW):
        asyncio.run(scene())


def a_pod_is_not_led_to_an_envoy_that_does_not_listen(directory: Path) -> None:
    pod = routed_pod(directory)

    async def scene() -> None:
        new = capturer(NEW)
        new.see({"a": pod}, known(captured=True))
        await new.act({"a"}, {})
        while new.next_ear is not None:
            assert not new._pods.refused
            await asyncio.sleep(new.next_ear - asyncio.get_running_loop().time())
            await new.act({"a"}, {})
        assert new._pods.refused == {"a": "Envoy does not listen in its network namespace yet"}
        assert await asyncio.to_thread(led_to, pod) == OLD

    asyncio.run(capture(pod, OLD))
    with envoy(pod, OLD):
        asyncio.run(scene())


def no_pod_waits_for_one_in_which_envoy_does_not_listen(directory: Path) -> None:
    pod, deaf = routed_pod(directory), directory / "deaf"
    netns.create(deaf)

    async def scene() -> None:
        agent = capturer(OLD)
        agent.see({"a": pod, "b": deaf}, known(captured=False))
        await agent.act({"a", "b"}, {})
        assert agent._pods.redirected == {"a"}
        assert agent.next_ear is not None

    with envoy(pod, OLD):
        asyncio.run(scene())


def a_pod_that_left_the_mesh_leaves_also_by_the_next_agent(directory: Path) -> None:
    pod = routed_pod(directory)

    async def scene() -> None:
        new = capturer(NEW)
        new._pods.adopt("a", pod)
        new.see({}, known(captured=False))
        await new.act({"a"}, {})
        assert not await is_captured(pod)

    asyncio.run(capture(pod, OLD))
    with envoy(pod, OLD), envoy(pod, NEW):
        asyncio.run(scene())


def exempts_probes(pod: Path) -> bool:
    command = (*netns.enter_command(pod), "nft", "list", "ruleset")
    rules = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return PROBE_SOURCE_V4 in rules


def captured_pods_exempt_probes_only_while_that_is_safe(directory: Path) -> None:
    pod = routed_pod(directory)

    async def scene() -> None:
        agent = capturer(OLD)
        agent.see({"a": pod}, known(captured=False))
        for safe in (True, False, True):
            await agent.act({"a"}, {}, probes=safe)
            assert exempts_probes(pod) is safe
            assert await is_captured(pod)
        # Closing it doesn't wait for an Envoy, nor for a certificate.
        envoys.close()
        await agent.act({"a"}, {"a": "no certificate"}, probes=False)
        assert not exempts_probes(pod)

    with contextlib.ExitStack() as envoys:
        envoys.enter_context(envoy(pod, OLD))
        asyncio.run(scene())


def test_a_pod_goes_over_to_the_new_agents_envoy_and_back(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(a_pod_goes_over_to_the_new_agents_envoy_and_back, tmp_path)


def test_a_pod_is_not_led_to_an_envoy_that_does_not_listen(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(a_pod_is_not_led_to_an_envoy_that_does_not_listen, tmp_path)


def test_no_pod_waits_for_one_in_which_envoy_does_not_listen(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(no_pod_waits_for_one_in_which_envoy_does_not_listen, tmp_path)


def test_a_pod_that_left_the_mesh_leaves_also_by_the_next_agent(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(a_pod_that_left_the_mesh_leaves_also_by_the_next_agent, tmp_path)


def test_captured_pods_exempt_probes_only_while_that_is_safe(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(captured_pods_exempt_probes_only_while_that_is_safe, tmp_path)
