"""What a captured pod's network namespace is set to, by what the kernel does then."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from tests.agent.conntrack import Entry, tracked
from tests.agent.test_capture import (
    OTHER,
    OTHER_V6,
    POD,
    POD_V6,
    checksum,
    family_of,
    listening,
    two_linked_namespaces,
    wait_until,
)

from troth.agent.capture import capture
from troth.agent.netns import call_in, create, socket_in
from troth.agent.sysctls import POD_SYSCTLS, Sysctl, apply_sysctls

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import InNode

CLOSE_WAIT = "netfilter/nf_conntrack_tcp_timeout_close_wait"


def value(netns: Path, name: str) -> str:
    return call_in(netns, lambda: Path("/proc/sys/net", name).read_text().strip())


def capture_sets_the_pods_and_no_others(directory: Path) -> None:
    pod, other = directory / "pod", directory / "other"
    for path in (pod, other):
        create(path)
    before = [value(other, each.name) for each in POD_SYSCTLS]
    asyncio.run(capture(pod))
    assert [value(pod, each.name) for each in POD_SYSCTLS] == [each.value for each in POD_SYSCTLS]
    assert [value(other, each.name) for each in POD_SYSCTLS] == before
    assert not {each.value for each in POD_SYSCTLS}.intersection(before)


def a_longer_time_stays(directory: Path) -> None:
    pod = directory / "pod"
    create(pod)
    call_in(pod, lambda: apply_sysctls([Sysctl(CLOSE_WAIT, "3600")]))
    asyncio.run(capture(pod))
    assert value(pod, CLOSE_WAIT) == "3600"


def a_read_only_view_of_them_does_not_matter(directory: Path) -> None:
    pod = directory / "pod"
    create(pod)
    for arguments in (("--bind", "/proc/sys", "/proc/sys"), ("-o", "remount,bind,ro", "/proc/sys")):
        subprocess.run(["mount", *arguments], check=True)
    with pytest.raises(OSError, match="Read-only"):
        Path("/proc/sys/net", CLOSE_WAIT).write_text("1")
    call_in(pod, apply_sysctls)
    assert value(pod, CLOSE_WAIT) == "300"
    with pytest.raises(OSError, match="Read-only"):
        Path("/proc/sys/net", CLOSE_WAIT).write_text("1")


def one_that_the_kernel_lacks_is_told(directory: Path) -> None:
    pod = directory / "pod"
    create(pod)
    lacking = call_in(pod, lambda: apply_sysctls([Sysctl("ipv4/no_such_thing", "1")]))
    assert lacking == {"ipv4/no_such_thing"}


class Way(NamedTuple):
    """A redirected connection: who makes it, to where, and where it is accepted."""

    client: Path
    target: str
    entrance: str
    port: int


def ways(pod: Path, other: Path) -> tuple[Way, ...]:
    return (
        Way(pod, OTHER, "127.0.0.1", 15001),
        Way(pod, OTHER_V6, "::1", 15001),
        Way(other, POD, POD, 15006),
        Way(other, POD_V6, POD_V6, 15006),
    )


def a_half_closed_connection_is_remembered(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod))
    cases = itertools.product(ways(pod, other), ("client", "server"))
    for port, (way, first) in enumerate(cases, start=80):
        with (
            listening(pod, way.entrance, way.port) as envoy,
            listening(pod, POD, port),
            listening(pod, POD_V6, port),
            socket_in(way.client, family_of(way.target)) as client,
        ):
            client.settimeout(5)
            client.connect((way.target, port))
            with envoy.accept()[0] as server:
                closing, open_end = (client, server) if first == "client" else (server, client)
                closing.shutdown(socket.SHUT_WR)
                assert open_end.recv(1) == b""
                # Longer than Envoy's probes are apart, so that each of them comes in time.
                assert seconds_in(pod, port, "CLOSE_WAIT") > 120, (way, first)
                open_end.sendall(b"late")
                assert closing.recv(9) == b"late"


def seconds_in(netns: Path, port: int, state: str) -> int:
    """How long the one connection to a port is remembered, once it is in some state."""
    found: list[Entry] = []

    def look() -> bool:
        found[:] = (each for each in tracked(netns) if (each.port, each.state) == (port, state))
        return len(found) == 1

    wait_until(look)
    return found[0].seconds


def a_stray_segment_resets_nothing(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod))
    for mine in (POD, POD_V6):
        with (
            listening(pod, mine, 15006) as envoy,
            listening(pod, mine, 80),
            socket_in(other, family_of(mine)) as client,
        ):
            client.settimeout(5)
            client.connect((mine, 80))
            with envoy.accept()[0] as server:
                send_beyond_the_window(other, client)
                client.sendall(b"still there")
                assert server.recv(99) == b"still there"
                server.sendall(b"me too")
                assert client.recv(99) == b"me too"


# linux/tcp.h
_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_QUEUE_SEQ = 19, 20, 21
_RECEIVED, _SENT = 1, 2
_RESUME_SILENTLY = -1


def send_beyond_the_window(netns: Path, client: socket.socket) -> None:
    """Send a segment of a connection whose data the other end can't take yet by far."""
    numbers = {}
    client.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    for queue in (_RECEIVED, _SENT):
        client.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, queue)
        numbers[queue] = client.getsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ) & 0xFFFFFFFF
    client.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _RESUME_SILENTLY)
    (source, source_port, *_), (target, port, *_) = client.getsockname(), client.getpeername()
    family = family_of(target)
    beyond = (numbers[_SENT] + 2**30) & 0xFFFFFFFF
    segment = bytearray(
        struct.pack(
            "!HHIIBBHHH", source_port, port, beyond, numbers[_RECEIVED], 5 << 4, 0x10, 1024, 0, 0
        )
    )
    hosts = socket.inet_pton(family, source) + socket.inet_pton(family, target)
    pseudo = hosts + struct.pack("!II", len(segment), socket.IPPROTO_TCP)
    segment[16:18] = checksum(pseudo + segment)
    with call_in(netns, lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)) as raw:
        raw.sendto(segment, (target, 0))


@pytest.mark.parametrize(
    "scene",
    [
        pytest.param(capture_sets_the_pods_and_no_others, id="capture sets the pod's alone"),
        pytest.param(a_longer_time_stays, id="a longer time stays"),
        pytest.param(a_read_only_view_of_them_does_not_matter, id="also if /proc/sys is read-only"),
        pytest.param(one_that_the_kernel_lacks_is_told, id="what the kernel lacks is told"),
        pytest.param(a_half_closed_connection_is_remembered, id="half-closed ones are remembered"),
        pytest.param(a_stray_segment_resets_nothing, id="a stray segment resets nothing"),
    ],
)
def test_sysctls_in_the_kernel(
    scene: Callable[[Path], None], in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(scene, tmp_path)
