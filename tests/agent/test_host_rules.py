"""Who is taken for the node's own process, judged by the kernel in namespaces of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.agent.frames import frames, mac, packed, syn

from troth.agent.capture import PROBE_SOURCE_V4, PROBE_SOURCE_V6, apply_ruleset, capture
from troth.agent.host_rules import BRIDGE_TABLE, TABLE, HostRules, host_rules
from troth.agent.netns import call_in, create, enter_command, socket_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from tests.conftest import InNode

POD, POD_V6 = "10.9.1.2", "fd99:1::2"
BRIDGED = "10.9.0.2"
VLAN, QINQ = 0x8100, 0x88A8
PORT = 8080
BOTH = [(POD, PORT), (POD_V6, PORT)]
OTHER, OTHER_V6 = "10.9.2.2", "fd99:2::2"


class Net:
    """A node with two pods that it forwards between; this process is the node's."""

    def __init__(self, directory: Path) -> None:
        self.host = Path("/proc/self/ns/net")
        self.pod, self.other = directory / "pod", directory / "other"
        run("ip", "link", "set", "lo", "up")
        for number, path in enumerate((self.pod, self.other), start=1):
            create(path)
            connect(path, f"p{number}")
            inside = enter_command(path)
            for address, prefix in ((f"10.9.{number}.", 24), (f"fd99:{number}::", 64)):
                no_dad = ("nodad",) if ":" in address else ()
                run("ip", "addr", "add", f"{address}1/{prefix}", "dev", f"p{number}", *no_dad)
                run(*inside, "ip", "addr", "add", f"{address}2/{prefix}", "dev", "eth0", *no_dad)
            run("ip", "link", "set", f"p{number}", "up")
            run(*inside, "ip", "link", "set", "eth0", "up")
            run(*inside, *["ip", "route", "add", "default", "via"], f"10.9.{number}.1")
            run(*inside, *["ip", "-6", "route", "add", "default", "via"], f"fd99:{number}::1")
        for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path(f"/proc/sys/net/{family}").write_text("1")
        # A new link takes a moment until IPv6 uses it.
        while not source_seen(self, self.other, POD_V6):
            pass


class Bridged:
    """A node whose bridge has two pods on it; the second one may send whatever frames it likes."""

    def __init__(self, directory: Path) -> None:
        self.host = Path("/proc/self/ns/net")
        self.pod, self.other = directory / "pod", directory / "other"
        # As most nodes have it, frames between a bridge's ports don't pass the rules for IP.
        with contextlib.suppress(FileNotFoundError):
            Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("0")
        for command in ("add br0 type bridge", "set br0 up", "set lo up"):
            run("ip", "link", *command.split())
        run("ip", "addr", "add", "10.9.0.1/24", "dev", "br0")
        for number, path in enumerate((self.pod, self.other), start=2):
            create(path)
            connect(path, f"p{number}")
            run("ip", "link", "set", f"p{number}", "master", "br0", "up")
            inside = enter_command(path)
            run(*inside, "ip", "addr", "add", f"10.9.0.{number}/24", "dev", "eth0")
            run(*inside, "ip", "link", "set", "eth0", "up")
            run(*inside, *["ip", "route", "add", "default", "via"], "10.9.0.1")
        # Where the pod's answers go that are meant for the node: what a neighbour brings about by
        # saying that it were the gateway.
        mine = mac(self.other).hex(":")
        inside = enter_command(self.pod)
        run(*inside, "ip", "route", "add", PROBE_SOURCE_V4, "dev", "eth0")
        run(*inside, "ip", "neigh", "add", PROBE_SOURCE_V4, "lladdr", mine, "dev", "eth0")

    def is_taken_in(self, tags: Sequence[int]) -> bool:
        """Whether the pod answers a SYN that has the probes' source, and these VLAN tags."""
        tagged = b"".join(kind.to_bytes(2) + b"\0\0" for kind in tags)
        addresses = mac(self.pod) + mac(self.other)
        packet = syn(PROBE_SOURCE_V4, BRIDGED, PORT)
        with (
            socket_in(self.pod, socket.AF_INET) as server,
            call_in(self.other, frames) as wire,
        ):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((BRIDGED, PORT))
            server.listen()
            wire.settimeout(0.5)
            wire.send(addresses + tagged + b"\x08\x00" + packet)
            with contextlib.suppress(TimeoutError):
                while True:
                    seen = wire.recv(2048)
                    if seen.startswith(mac(self.other)) and seen[26:30] == packed(BRIDGED):
                        return True
        return False


def connect(netns: Path, name: str) -> None:
    """Give a namespace an ``eth0`` whose other end is here."""
    holder = subprocess.Popen([*enter_command(netns), "sleep", "60"])
    while Path(f"/proc/{holder.pid}/comm").read_text() != "sleep\n":
        run("sleep", "0.01")
    run(*f"ip link add {name} type veth peer name eth0 netns {holder.pid}".split())
    holder.kill()
    holder.wait()


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def source_seen(net: Net | Bridged, client: Path, address: str, *, bind: str = "") -> str:
    """Where the pod sees a client's connection come from; empty when it sees none."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket_in(net.pod, family) as server, socket_in(client, family) as ours:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, PORT))
        server.listen()
        server.settimeout(5)
        ours.settimeout(0.5)
        if bind:
            ours.bind((bind, 0))
        if ours.connect_ex((address, PORT)) != 0:
            return ""
        with server.accept()[0] as connection:
            connection.sendall(b"answer")
            assert ours.recv(6) == b"answer"
            return str(connection.getpeername()[0])


def the_node_itself_reaches_its_captured_pods(directory: Path) -> None:
    net = Net(directory)
    asyncio.run(capture(net.pod, probes=True))
    assert source_seen(net, net.host, POD) == ""
    asyncio.run(HostRules(net.host).let_in(BOTH))
    assert source_seen(net, net.host, POD) == PROBE_SOURCE_V4
    assert source_seen(net, net.host, POD_V6) == PROBE_SOURCE_V6


def only_the_ports_that_are_probed_are_exempt(directory: Path) -> None:
    net = Net(directory)
    asyncio.run(capture(net.pod, probes=True))
    asyncio.run(HostRules(net.host).let_in([(POD, PORT + 1), (POD_V6, PORT)]))
    assert source_seen(net, net.host, POD) == ""
    assert source_seen(net, net.host, POD_V6) == PROBE_SOURCE_V6


def forwarded_connections_are_not_exempt(directory: Path) -> None:
    net = Net(directory)
    assert source_seen(net, net.other, POD) == OTHER
    asyncio.run(HostRules(net.host).let_in(BOTH))
    assert source_seen(net, net.other, POD) == OTHER
    assert source_seen(net, net.other, POD_V6) == OTHER_V6
    asyncio.run(capture(net.pod, probes=True))
    assert source_seen(net, net.other, POD) == ""
    assert source_seen(net, net.other, POD_V6) == ""


def masqueraded_connections_are_not_exempt(directory: Path) -> None:
    net = Net(directory)
    asyncio.run(HostRules(net.host).let_in([(POD, PORT)]))
    kube_proxy = "chain c { type nat hook postrouting priority 100; masquerade; };"
    asyncio.run(apply_ruleset(net.host, f"table ip theirs {{ {kube_proxy} }};"))
    assert source_seen(net, net.other, POD) == "10.9.1.1"
    asyncio.run(capture(net.pod, probes=True))
    assert source_seen(net, net.other, POD) == ""
    assert source_seen(net, net.host, POD) == PROBE_SOURCE_V4


def nobody_else_can_have_the_probes_source(directory: Path) -> None:
    net = Net(directory)
    run(*enter_command(net.other), "ip", "addr", "add", PROBE_SOURCE_V4, "dev", "eth0")
    # Even where the node itself would know the way back.
    run("ip", "route", "add", PROBE_SOURCE_V4, "dev", "p2")
    assert source_seen(net, net.other, POD, bind=PROBE_SOURCE_V4) == PROBE_SOURCE_V4
    asyncio.run(HostRules(net.host).let_in([(POD, PORT)]))
    assert source_seen(net, net.other, POD, bind=PROBE_SOURCE_V4) == ""


def nobody_on_the_same_bridge_can_have_the_probes_source_either(directory: Path) -> None:
    net = Bridged(directory)
    asyncio.run(capture(net.pod, probes=True))
    # A tag with number 0 is a priority, and the packet in it the untagged network's.
    tags = ((), (VLAN,), (VLAN, VLAN), (QINQ, VLAN), (VLAN, QINQ, VLAN))
    assert [net.is_taken_in(each) for each in tags] == [True] * len(tags)
    asyncio.run(HostRules(net.host).let_in([(BRIDGED, PORT)]))
    assert [net.is_taken_in(each) for each in tags] == [False] * len(tags)
    run(*enter_command(net.pod), "ip", "route", "del", PROBE_SOURCE_V4)
    assert source_seen(net, net.host, BRIDGED) == PROBE_SOURCE_V4


def a_pod_captured_without_probes_exempts_nobody(directory: Path) -> None:
    net = Net(directory)
    asyncio.run(HostRules(net.host).let_in([(POD, PORT)]))
    asyncio.run(capture(net.pod))
    assert source_seen(net, net.host, POD) == ""


def pods_that_are_not_captured_see_the_node_as_it_is(directory: Path) -> None:
    net = Net(directory)
    rules = HostRules(net.host)
    asyncio.run(rules.let_in([(POD, PORT)]))
    asyncio.run(rules.let_in([]))
    assert source_seen(net, net.host, POD) == "10.9.1.1"


def tables(netns: Path) -> set[str]:
    command = (*enter_command(netns), "nft", "list", "tables")
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {line.removeprefix("table ") for line in listed.splitlines()}


@contextlib.contextmanager
def owned(netns: Path, table: str) -> Iterator[None]:
    """Somebody else owns a table for as long as the context lasts, and nobody may touch it."""
    command = (*enter_command(netns), "nft", "-i")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as owner:
        assert owner.stdin is not None
        owner.stdin.write(f"add table {table} {{ flags owner; }}\n".encode())
        owner.stdin.flush()
        while table not in tables(netns):
            pass
        yield
        owner.kill()
    while table in tables(netns):
        pass


@contextlib.asynccontextmanager
async def running(rules: HostRules) -> AsyncIterator[None]:
    task = asyncio.create_task(rules.run())
    yield
    task.cancel()
    await asyncio.wait([task])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what only a look can tell; the test's timeout ends what never comes."""
    while not condition():  # noqa: ASYNC110 - there is nothing that could set an event
        await asyncio.sleep(0.01)


def rules_that_somebody_flushes_come_back(directory: Path) -> None:
    host = directory / "host"
    create(host)

    async def scene() -> None:
        rules = HostRules(host, review_seconds=0.05)
        await rules.let_in([(POD, PORT)])
        async with running(rules):
            await apply_ruleset(host, "flush ruleset")
            await until(lambda: tables(host) == {TABLE, BRIDGE_TABLE})
        await rules.let_go()
        await apply_ruleset(host, "flush ruleset")
        async with running(rules):
            await asyncio.sleep(0.2)  # as long as it would take it several times
        assert not tables(host)

    asyncio.run(scene())


def rules_that_somebody_changes_come_back_at_once_and_are_told(directory: Path) -> None:
    host = directory / "host"
    create(host)

    async def scene() -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        rules = HostRules(host, on_restored=lambda each: told.put_nowait(each.how))
        await rules.let_in(BOTH)
        async with running(rules):
            while rules._generation is None:  # until it hears of changes
                await apply_ruleset(host, f"add set {TABLE} x {{ type mark; }}")
                await asyncio.sleep(0.1)
            await apply_ruleset(host, f"flush chain {TABLE} forged")
            how = await told.get()
            assert how.startswith(f"changed: chain forged of table {TABLE}, by nft (PID ")
            await apply_ruleset(host, f"delete table {BRIDGE_TABLE}")
            how = await told.get()
            assert how.startswith(f"removed: table {BRIDGE_TABLE}, by nft (PID ")
            assert tables(host) == {TABLE, BRIDGE_TABLE}
            await rules.let_in([(POD, PORT)])  # is nobody else's change
            await asyncio.sleep(1)
        assert told.empty()

    asyncio.run(scene())


def rules_that_no_pod_goes_by_are_taken_away(directory: Path) -> None:
    host = directory / "host"
    create(host)

    async def scene() -> None:
        rules = HostRules(host, review_seconds=0.05)
        await rules.let_in(BOTH)
        assert tables(host) == {TABLE, BRIDGE_TABLE}
        async with running(rules):
            await rules.remove()
            assert tables(host) == set()
            await rules.let_in(BOTH)
            assert tables(host) == {TABLE, BRIDGE_TABLE}

    asyncio.run(scene())


def rules_that_could_not_be_put_there_are_told_and_tried_again(directory: Path) -> None:
    host = directory / "host"
    create(host)

    async def scene() -> None:
        told: list[str] = []
        rules = HostRules(host, on_change=lambda: told.append(rules.trouble), review_seconds=0.05)
        with owned(host, TABLE), owned(host, BRIDGE_TABLE):
            await rules.let_in([(POD, PORT)])
            assert not rules.in_place
            why = "nft: /dev/stdin:1:1-{}: Error: Could not process rule: Operation not permitted"
            assert rules.trouble.split("; ") == [
                f"probes of STRICT pods fail: {why.format(26)}",
                f"pods on one bridge can pass for the node: {why.format(28)}",
            ]
        async with running(rules):
            await until(lambda: rules.in_place)
        assert (rules.trouble, told) == ("", [""])

    asyncio.run(scene())


def a_guard_of_bridges_that_failed_alone_is_told_and_tried_again(directory: Path) -> None:
    host = directory / "host"
    create(host)

    async def scene() -> None:
        rules = HostRules(host, review_seconds=0.05)
        with owned(host, BRIDGE_TABLE):
            await rules.let_in([(POD, PORT)])
            assert rules.in_place
            assert rules.trouble.startswith("pods on one bridge can pass for the node")
        async with running(rules):
            await until(lambda: not rules.trouble)
        assert tables(host) == {TABLE, BRIDGE_TABLE}

    asyncio.run(scene())


@pytest.mark.parametrize(
    "scene",
    [
        the_node_itself_reaches_its_captured_pods,
        only_the_ports_that_are_probed_are_exempt,
        forwarded_connections_are_not_exempt,
        masqueraded_connections_are_not_exempt,
        nobody_else_can_have_the_probes_source,
        nobody_on_the_same_bridge_can_have_the_probes_source_either,
        a_pod_captured_without_probes_exempts_nobody,
        pods_that_are_not_captured_see_the_node_as_it_is,
        rules_that_somebody_flushes_come_back,
        rules_that_somebody_changes_come_back_at_once_and_are_told,
        rules_that_no_pod_goes_by_are_taken_away,
        rules_that_could_not_be_put_there_are_told_and_tried_again,
        a_guard_of_bridges_that_failed_alone_is_told_and_tried_again,
    ],
    ids=lambda scene: scene.__name__.replace("_", " "),
)
def test_host_rules_in_the_kernel(
    scene: Callable[[Path], None], in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(scene, tmp_path)


@pytest.mark.parametrize("level", [None, 2])
def test_the_rules_are_one_transaction_whatever_the_addresses(level: int | None) -> None:
    for probed in ([], BOTH[:1], BOTH[1:], BOTH):
        rules = host_rules(probed, level=level)
        assert rules.startswith("add table inet troth-node\n")
        assert all(f"{address} . {port}" in rules for address, port in probed)
        assert ("socket cgroupv2 level 2 @kubelet" in rules) is (level is not None)
