"""The rules of capture, applied by the kernel in namespaces of the test's own."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from troth.agent.capture import (
    _PARTS,
    _takes,
    apply_ruleset,
    capture,
    capture_rules,
    release,
    tried_kernel,
)
from troth.agent.netns import call_in, call_in_new, create, enter_command, socket_in
from troth.errors import EnvironmentLackError, PeerError
from troth.mesh.ports import APP_MARK, PORT_SETS, TUNNEL_PORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import InNode

MARK = 0x539
POD, OTHER = "10.9.9.1", "10.9.9.2"
POD_V6, OTHER_V6 = "fd99::1", "fd99::2"


def two_linked_namespaces(directory: Path) -> tuple[Path, Path]:
    """A pod's namespace and another one, with a link between them."""
    pod, other = directory / "pod", directory / "other"
    for path in (pod, other):
        create(path)
    in_pod = enter_command(pod)
    run(*in_pod, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth9")
    # The peer goes to the other namespace by way of a process in it.
    holder = subprocess.Popen([*enter_command(other), "sleep", "60"])
    wait_until(lambda: Path(f"/proc/{holder.pid}/comm").read_text() == "sleep\n")
    run(*in_pod, "ip", "link", "set", "eth9", "netns", str(holder.pid))
    for path, device, addresses in (
        (pod, "eth0", (f"{POD}/24", f"{POD_V6}/64")),
        (other, "eth9", (f"{OTHER}/24", f"{OTHER_V6}/64")),
    ):
        enter = enter_command(path)
        for address in addresses:
            run(*enter, "ip", "addr", "add", address, "dev", device, *no_dad(address))
        run(*enter, "ip", "link", "set", device, "up")
    holder.kill()
    holder.wait()
    return pod, other


def no_dad(address: str) -> tuple[str, ...]:
    return ("nodad",) if ":" in address else ()


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        subprocess.run(["sleep", "0.01"], check=True)
    raise AssertionError("it never came true")


def listening(netns: Path, address: str, port: int) -> socket.socket:
    server = socket_in(netns, family_of(address))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen()
    server.settimeout(5)
    return server


_SILENCE_SECONDS = 0.5
"""How long to wait where nobody is to answer."""


def reaches(netns: Path, address: str, port: int, *, mark: int = 0, seconds: float = 5.0) -> bool:
    """Whether a connection from ``netns`` is accepted by somebody within so many seconds."""
    client = socket_in(netns, family_of(address))
    with client:
        client.settimeout(seconds)
        if mark:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        return client.connect_ex((address, port)) == 0


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def taken_by(server: socket.socket) -> bool:
    """Whether a connection waits at this server; takes it."""
    server.settimeout(0)
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def rules(netns: Path) -> Any:
    command = [*enter_command(netns), "nft", "-j", "list", "ruleset"]
    listing = json.loads(run(*command))["nftables"]
    found = [without_handles(each) for each in listing if "metainfo" not in each]
    return sorted(found, key=table_of)  # a table that is made once more is the last


def table_of(item: dict[str, Any]) -> str:
    """The table that an object of a listing is, or is in."""
    ((kind, value),) = item.items()
    return str(value["name" if kind == "table" else "table"])


def without_handles(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_handles(each) for key, each in value.items() if key != "handle"}
    if isinstance(value, list):
        return [without_handles(each) for each in value]
    return value


def tcp_goes_through_envoy(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    for ports, (mine, theirs, loopback) in itertools.product(
        PORT_SETS, ((POD, OTHER, "127.0.0.1"), (POD_V6, OTHER_V6, "::1"))
    ):
        asyncio.run(capture(pod, ports))
        with (
            listening(other, theirs, 80) as far,
            listening(pod, loopback, ports.outbound) as outbound,
            listening(pod, mine, ports.inbound) as inbound,
            listening(pod, mine, ports.tunnel) as tunnel,
            listening(pod, mine, 80) as app,
        ):
            assert reaches(pod, theirs, 80)
            assert (taken_by(outbound), taken_by(far)) == (True, False)
            assert reaches(pod, theirs, 80, mark=MARK)
            assert (taken_by(outbound), taken_by(far)) == (False, True)
            assert reaches(other, mine, 80)
            assert (taken_by(inbound), taken_by(app)) == (True, False)
            assert reaches(other, mine, TUNNEL_PORT)
            assert taken_by(tunnel)
            assert reaches(pod, mine, 80)
            assert (taken_by(app), taken_by(inbound), taken_by(outbound)) == (True, False, False)


def a_port_that_nobody_listens_on_is_refused(directory: Path) -> None:
    """As the pod itself would: before anybody accepts, and by address family."""
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod))
    with (
        listening(pod, "::", 15006),
        listening(pod, "0.0.0.0", 80),
        listening(pod, "127.0.0.1", 81),
    ):
        answers = {
            (address, port): outcome(other, address, port)
            for address in (POD, POD_V6)
            for port in (80, 81, 82)
        }
    refused = errno.ECONNREFUSED
    assert answers == {
        (POD, 80): 0,
        (POD, 81): refused,
        (POD, 82): refused,
        (POD_V6, 80): refused,
        (POD_V6, 81): refused,
        (POD_V6, 82): refused,
    }


def a_port_that_the_app_closed_a_connection_at_can_be_called_again(directory: Path) -> None:
    """From the same port: the app's end of the earlier one is in TIME-WAIT."""
    pod, other = two_linked_namespaces(directory)
    for mine, theirs in ((POD, OTHER), (POD_V6, OTHER_V6)):
        with listening(pod, mine, 80) as app, listening(pod, mine, 15006) as inbound:
            with socket_in(other, family_of(theirs)) as client:
                client.bind((theirs, 45_000))
                client.connect((mine, 80))
                assert taken_by(app)
                client.settimeout(5)
                assert client.recv(1) == b""
            wait_until(
                lambda: ":45000" in run(*enter_command(pod), "ss", "-Htan", "state", "time-wait")
            )
            asyncio.run(capture(pod))
            assert reaches_from(other, (theirs, 45_000), (mine, 80))
            assert taken_by(inbound)
            asyncio.run(release(pod))


def outcome(netns: Path, address: str, port: int) -> int:
    """What became of a connection: an error's number, or 0."""
    with socket_in(netns, family_of(address)) as client:
        client.settimeout(5)
        return client.connect_ex((address, port))


def without_envoy_nothing_passes(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    with listening(other, OTHER, 80), listening(pod, POD, 80):
        assert reaches(pod, OTHER, 80)
        assert reaches(other, POD, 80)
        asyncio.run(capture(pod))
        assert not reaches(pod, OTHER, 80)
        assert not reaches(other, POD, 80)
        asyncio.run(release(pod))
        assert reaches(pod, OTHER, 80)
        assert reaches(other, POD, 80)


def segment_without_connection(
    netns: Path, source: tuple[str, int], target: tuple[str, int]
) -> None:
    """Send an ACK that the kernel tracks from now on, and that nobody answers.

    Because of its option, an MD5 signature (RFC 2385): to other segments without a connection there
    would be a RST, after which the kernel forgets them.
    """
    (address, port), (to, to_port) = source, target
    family = family_of(address)
    head = struct.pack("!HHIIBBHHH", port, to_port, 1000, 2000, 10 << 4, 0x10, 1024, 0, 0)
    segment = bytearray(head + b"\x01\x01\x13\x12" + bytes(16))
    hosts = socket.inet_pton(family, address) + socket.inet_pton(family, to)
    segment[16:18] = checksum(
        hosts + struct.pack("!II", len(segment), socket.IPPROTO_TCP) + segment
    )
    with call_in(netns, lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)) as raw:
        raw.sendto(segment, (to, 0))


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def reaches_from(netns: Path, source: tuple[str, int], target: tuple[str, int]) -> bool:
    with socket_in(netns, family_of(source[0])) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.settimeout(_SILENCE_SECONDS)
        client.bind(source)
        return client.connect_ex(target) == 0


def nothing_comes_in_past_envoy_by_a_forged_segment(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    for mine, theirs in ((POD, OTHER), (POD_V6, OTHER_V6)):
        source, target = (theirs, 40001), (mine, 80)
        with listening(pod, mine, 80) as app:
            for ports in PORT_SETS:
                asyncio.run(capture(pod, ports))
                segment_without_connection(other, source, target)
                assert not reaches_from(other, source, target)
                assert not taken_by(app)


def nothing_gets_out_past_envoy_by_a_forged_segment(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod))
    for mine, theirs in ((POD, OTHER), (POD_V6, OTHER_V6)):
        source, target = (mine, 40001), (theirs, 80)
        with listening(other, theirs, 80) as far:
            segment_without_connection(pod, source, target)
            assert not reaches_from(pod, source, target)
            assert not taken_by(far)


_IPV6_TRANSPARENT = 75  # linux/in6.h; Python lacks it
_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_QUEUE_SEQ = 19, 20, 21  # linux/tcp.h
_RECEIVED, _REPAIRED = 1, -1


def as_envoy(pod: Path, source: str, target: tuple[str, int]) -> socket.socket:
    """A connection to the app in the way in which Envoy makes it: from its client's address."""
    client = unconnected_envoy(pod, source)
    client.connect(target)
    return client


def unconnected_envoy(pod: Path, source: str) -> socket.socket:
    client = socket_in(pod, family_of(source))
    client.settimeout(5)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, APP_MARK)
    if ":" in source:
        client.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
    client.bind((source, 0))
    return client


def the_app_sees_envoys_client(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod))
    for mine, theirs in ((POD, OTHER), (POD_V6, OTHER_V6)):
        # The client has the same two ends: what the kernel tracks of one mustn't touch the other.
        with listening(pod, mine, 15006) as inbound, listening(pod, mine, 80) as app:
            envoy = as_envoy(pod, theirs, (mine, 80))
            same = socket_in(other, family_of(theirs))
            with envoy, same, app.accept()[0] as answering:
                assert answering.getpeername()[0] == theirs
                same.settimeout(5)
                same.bind((theirs, envoy.getsockname()[1]))
                same.connect((mine, 80))
                assert (taken_by(inbound), taken_by(app)) == (True, False)
                assert exchanged(envoy, answering)
                asyncio.run(release(pod))
                assert exchanged(envoy, answering)
                asyncio.run(capture(pod))


def no_app_inherits_envoys_mark(directory: Path) -> None:
    """An accepted socket takes its client's mark, and may connect to elsewhere afterwards."""
    pod, other = two_linked_namespaces(directory)
    for change in (capture, release):
        asyncio.run(change(pod))
        for mine, theirs in ((POD, OTHER), (POD_V6, OTHER_V6)):
            with (
                listening(pod, mine, 80) as app,
                listening(other, theirs, 80),
                socket_in(pod, family_of(mine)) as envoy,
            ):
                envoy.settimeout(5)
                envoy.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
                envoy.connect((mine, 80))
                with app.accept()[0] as accepted:
                    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0
                    assert exchanged(envoy, accepted)


def late_clients_of_the_second_envoy_are_served(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    ports = PORT_SETS[1]
    asyncio.run(capture(pod, ports))
    asyncio.run(release(pod, ports))
    for mine in (POD, POD_V6):
        with listening(pod, mine, ports.tunnel) as tunnel:
            assert reaches(other, mine, TUNNEL_PORT)
            assert taken_by(tunnel)


def where_nobody_listens_envoy_is_refused(directory: Path) -> None:
    pod, _ = two_linked_namespaces(directory)
    asyncio.run(capture(pod))
    for mine, theirs in ((POD, OTHER), (POD_V6, OTHER_V6)):
        with pytest.raises(ConnectionRefusedError):
            as_envoy(pod, theirs, (mine, 80))


def an_app_that_listens_a_moment_later_gets_envoys_connection(directory: Path) -> None:
    pod, _ = two_linked_namespaces(directory)
    asyncio.run(capture(pod))
    for mine, theirs in ((POD, OTHER), (POD_V6, OTHER_V6)):
        with (
            socket_in(pod, family_of(mine)) as app,
            unconnected_envoy(pod, theirs) as envoy,
        ):
            app.bind((mine, 80))
            envoy.setblocking(False)
            assert envoy.connect_ex((mine, 80)) == errno.EINPROGRESS
            app.listen()
            app.settimeout(5)
            with app.accept()[0] as accepted:
                assert exchanged(accepted, envoy)


def exchanged(one: socket.socket, two: socket.socket) -> bool:
    for sender, receiver in ((one, two), (two, one)):
        receiver.settimeout(5)
        sender.sendall(b"words")
        if receiver.recv(100) != b"words":
            return False
    return True


def no_segment_from_outside_is_taken_for_envoys(directory: Path) -> None:
    """Behind Envoy, the app's connection seems to be its client's. The client has no part in it."""
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod))
    for mine, theirs in ((POD, OTHER), (POD_V6, OTHER_V6)):
        with (
            listening(pod, mine, 80) as app,
            as_envoy(pod, theirs, (mine, 80)) as envoy,
            app.accept()[0] as answering,
        ):
            source = theirs, envoy.getsockname()[1]
            reset(other, source, (mine, 80), next_byte(answering))
            # What comes later than the reset shows that it has been dealt with.
            assert not reaches(other, mine, 15999, seconds=_SILENCE_SECONDS)
            assert exchanged(envoy, answering)


def next_byte(connection: socket.socket) -> int:
    """The sequence number that a connection expects next."""
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, _RECEIVED)
    number = connection.getsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ)
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIRED)
    return number & 0xFFFF_FFFF


def reset(netns: Path, source: tuple[str, int], target: tuple[str, int], number: int) -> None:
    """Send a RST for somebody else's connection, with a sequence number that is right."""
    (address, port), (to, to_port) = source, target
    family = family_of(address)
    segment = bytearray(struct.pack("!HHIIBBHHH", port, to_port, number, 0, 5 << 4, 0x04, 0, 0, 0))
    hosts = socket.inet_pton(family, address) + socket.inet_pton(family, to)
    pseudo = hosts + struct.pack("!II", len(segment), socket.IPPROTO_TCP)
    segment[16:18] = checksum(pseudo + segment)
    with call_in(netns, lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)) as raw:
        raw.sendto(segment, (to, 0))


def own_ports_are_closed_to_others(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod, PORT_SETS[1]))
    for port in (15001, 15006, 15101, 15106, 15107):
        with listening(pod, POD, port):
            assert not reaches(other, POD, port, seconds=_SILENCE_SECONDS)


def a_pod_relays_nothing(directory: Path) -> None:
    """What merely arrives at the pod, for an address that isn't its own, isn't led to Envoy."""
    pod, other = two_linked_namespaces(directory)
    enter = enter_command(other)
    run(*enter, "ip", "route", "add", "10.8.8.8", "via", POD)
    run(*enter, "ip", "-6", "route", "add", "fd88::8", "via", POD_V6)
    asyncio.run(capture(pod))
    for mine, elsewhere in ((POD, "10.8.8.8"), (POD_V6, "fd88::8")):
        with listening(pod, mine, 15006) as inbound, listening(pod, mine, 80):
            assert not reaches(other, elsewhere, 80, seconds=_SILENCE_SECONDS)
            assert not taken_by(inbound)
            assert reaches(other, mine, 80)
            assert taken_by(inbound)


def udp_is_untouched(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod))
    for mine, theirs in ((POD, OTHER), (POD_V6, OTHER_V6)):
        for here, there, address in ((pod, other, theirs), (other, pod, mine)):
            with (
                socket_in(there, family_of(address), socket.SOCK_DGRAM) as server,
                socket_in(here, family_of(address), socket.SOCK_DGRAM) as client,
            ):
                server.bind((address, 53))
                server.settimeout(5)
                client.settimeout(5)
                client.connect((address, 53))
                client.send(b"question")
                question, asker = server.recvfrom(100)
                server.sendto(b"answer", asker)
                assert (question, client.recv(100)) == (b"question", b"answer")


def connections_from_before_live_on(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    with listening(other, OTHER, 80) as far, socket_in(pod, socket.AF_INET) as client:
        client.settimeout(5)
        client.connect((OTHER, 80))
        with far.accept()[0] as server:
            server.settimeout(5)
            for change in (capture, release, capture):
                asyncio.run(change(pod))
                client.sendall(b"there")
                assert server.recv(100) == b"there"
                server.sendall(b"back")
                assert client.recv(100) == b"back"


def captured_connections_outlive_release(directory: Path) -> None:
    pod, _ = two_linked_namespaces(directory)
    asyncio.run(capture(pod))
    with listening(pod, "127.0.0.1", 15001) as envoy, socket_in(pod, socket.AF_INET) as app:
        app.settimeout(5)
        app.connect((OTHER, 80))
        with envoy.accept()[0] as proxied:
            proxied.settimeout(5)
            asyncio.run(release(pod))
            app.sendall(b"still captured")
            assert proxied.recv(100) == b"still captured"


def connections_stay_where_they_were_led(directory: Path) -> None:
    """Rules that lead to another Envoy take no connection away from the one before."""
    pod, other = two_linked_namespaces(directory)
    before, after = PORT_SETS
    asyncio.run(capture(pod, before))
    with (
        listening(pod, "127.0.0.1", before.outbound) as outbound,
        listening(pod, POD, before.inbound) as inbound,
        listening(pod, POD, before.tunnel) as tunnel,
        listening(pod, POD, 80),
        socket_in(pod, socket.AF_INET) as leaving,
        socket_in(other, socket.AF_INET) as entering,
        socket_in(other, socket.AF_INET) as tunnelled,
    ):
        ways = (
            (leaving, (OTHER, 80), outbound),
            (entering, (POD, 80), inbound),
            (tunnelled, (POD, TUNNEL_PORT), tunnel),
        )
        for client, address, _ in ways:
            client.settimeout(5)
            client.connect(address)
        asyncio.run(capture(pod, after))
        for client, address, server in ways:
            assert not reaches(leaving_from(client, pod, other), *address)
            with server.accept()[0] as accepted:  # it waited in the queue, and lost nothing
                accepted.settimeout(5)
                client.sendall(b"there")
                assert accepted.recv(100) == b"there"
                accepted.sendall(b"back")
                assert client.recv(100) == b"back"


def leaving_from(client: socket.socket, pod: Path, other: Path) -> Path:
    """The namespace that a client is in."""
    return pod if client.getsockname()[0] == POD else other


def again_changes_nothing(directory: Path) -> None:
    pod, _ = two_linked_namespaces(directory)
    assert rules(pod) == []
    asyncio.run(capture(pod))
    once = rules(pod)
    assert once
    asyncio.run(capture(pod))
    assert rules(pod) == once
    asyncio.run(release(pod))
    released = rules(pod)
    assert "redirect" not in str(released)
    asyncio.run(release(pod))
    assert rules(pod) == released


def other_tables_are_left_alone(directory: Path) -> None:
    pod, _ = two_linked_namespaces(directory)
    asyncio.run(apply_ruleset(pod, "table inet theirs { chain c { accept; }; }"))
    theirs = rules(pod)
    for change in (capture, release):
        asyncio.run(change(pod))
        assert all(each in rules(pod) for each in theirs)


def a_refused_ruleset_changes_nothing(directory: Path) -> None:
    pod, _ = two_linked_namespaces(directory)
    asyncio.run(capture(pod))
    before = rules(pod)
    with pytest.raises(PeerError, match="nft"):
        asyncio.run(apply_ruleset(pod, "flush ruleset\nnonsense"))
    assert rules(pod) == before


def a_missing_nft_is_named_with_its_package(directory: Path) -> None:
    create(directory / "pod")
    os.environ["PATH"] = str(directory)
    for act in (capture(directory / "pod"), apply_ruleset(directory / "pod", "")):
        with pytest.raises(EnvironmentLackError) as lacking:
            asyncio.run(act)
        assert "install nftables" in lacking.value.remedy


def refuse_rules_with(words: str, directory: Path) -> Path:
    """Have the kernel refuse what speaks of something, from now on; a file of a line for each try.

    Such rulesets get a rule more, which no kernel takes: a redirect in a chain that isn't of NAT.
    """
    real, tries = shutil.which("nft"), directory / "tries"
    script = directory / "nft"
    script.write_text(
        f"""#!/bin/sh
rules=$(cat)
echo >> {tries}
case "$rules" in *"{words}"*) rules="$rules
add table inet no
add chain inet no no {{ type filter hook output priority 0; }}
add rule inet no no redirect" ;; esac
echo "$rules" | exec {real} "$@"
"""
    )
    script.chmod(0o755)
    os.environ["PATH"] = f"{directory}:{os.environ['PATH']}"
    return tries


def all_parts_of_the_rules_are_there(directory: Path) -> None:
    del directory
    assert tried_kernel().refusing
    assert call_in_new(lambda: [part for part in _PARTS if not _takes(_PARTS[part])]) == []


def a_kernel_that_lacks_a_part_is_told_which(directory: Path) -> None:
    create(directory / "pod")
    refuse_rules_with("socket mark", directory)
    for _ in range(2):
        with pytest.raises(EnvironmentLackError) as lacking:
            asyncio.run(capture(directory / "pod"))
        assert "no pod can be captured" in lacking.value.lack
        assert "not supported" in lacking.value.lack
        assert lacking.value.remedy == "load or build what it lacks: nft_socket"
    assert rules(directory / "pod") == []


def an_older_kernel_is_tried_once_and_pods_are_captured_by_what_it_takes(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    tries = refuse_rules_with("socket transparent", directory)
    for _ in range(3):
        asyncio.run(capture(pod))
    assert len(tries.read_text()) == 2 + 3
    with listening(pod, POD, PORT_SETS[0].inbound):
        assert reaches(other, POD, 80)  # though nobody listens there
    assert not tried_kernel().refusing


@pytest.mark.parametrize(
    "scene",
    [
        pytest.param(tcp_goes_through_envoy, id="TCP goes through Envoy, both ways"),
        pytest.param(
            a_port_that_nobody_listens_on_is_refused, id="a port nobody listens on is refused"
        ),
        pytest.param(
            a_port_that_the_app_closed_a_connection_at_can_be_called_again,
            id="a client's port can be used again that the app has in TIME-WAIT",
        ),
        pytest.param(without_envoy_nothing_passes, id="without Envoy nothing passes"),
        pytest.param(
            nothing_comes_in_past_envoy_by_a_forged_segment,
            id="nothing comes in past Envoy by a forged segment",
        ),
        pytest.param(
            nothing_gets_out_past_envoy_by_a_forged_segment,
            id="nothing gets out past Envoy by a forged segment",
        ),
        pytest.param(no_app_inherits_envoys_mark, id="no app inherits Envoy's mark"),
        pytest.param(
            late_clients_of_the_second_envoy_are_served,
            id="late clients of the second Envoy are served",
        ),
        pytest.param(the_app_sees_envoys_client, id="the app sees Envoy's client"),
        pytest.param(
            where_nobody_listens_envoy_is_refused, id="where nobody listens, Envoy is refused"
        ),
        pytest.param(
            an_app_that_listens_a_moment_later_gets_envoys_connection,
            id="an app that listens a moment later gets Envoy's connection",
        ),
        pytest.param(
            no_segment_from_outside_is_taken_for_envoys,
            id="no segment from outside is taken for Envoy's",
        ),
        pytest.param(own_ports_are_closed_to_others, id="no other pod reaches Envoy's own ports"),
        pytest.param(a_pod_relays_nothing, id="a pod relays nothing"),
        pytest.param(udp_is_untouched, id="UDP is untouched"),
        pytest.param(connections_from_before_live_on, id="connections from before live on"),
        pytest.param(captured_connections_outlive_release, id="captured ones outlive release"),
        pytest.param(connections_stay_where_they_were_led, id="other rules take none away"),
        pytest.param(again_changes_nothing, id="once more changes nothing"),
        pytest.param(other_tables_are_left_alone, id="other tables are left alone"),
        pytest.param(a_refused_ruleset_changes_nothing, id="a refused ruleset changes nothing"),
        pytest.param(a_missing_nft_is_named_with_its_package, id="a missing nft is named"),
        pytest.param(all_parts_of_the_rules_are_there, id="all parts of the rules are there"),
        pytest.param(a_kernel_that_lacks_a_part_is_told_which, id="what a kernel lacks is told"),
        pytest.param(
            an_older_kernel_is_tried_once_and_pods_are_captured_by_what_it_takes,
            id="an older kernel is tried once",
        ),
    ],
)
def test_capture_in_the_kernel(
    scene: Callable[[Path], None],
    in_node_namespace: InNode,
    tmp_path: Path,
) -> None:
    in_node_namespace(scene, tmp_path)


async def test_a_namespace_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="gone"):
        await capture(tmp_path / "gone")


def test_the_rules_speak_of_first_packets_only() -> None:
    lines = [line for ports in PORT_SETS for line in capture_rules(ports).splitlines()]
    redirects = [line for line in lines if "redirect" in line or "dnat" in line]
    assert len(redirects) == 5
    assert all("tcp flags syn / fin,syn,rst,ack" in line for line in redirects)
