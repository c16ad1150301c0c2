"""Probes, sent as a kubelet sends them: by a process of the node itself."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
from typing import TYPE_CHECKING, Any

from troth.agent.netns import socket_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.rig.pods import Container, Sandbox

_GOOD = range(200, 400)


def probe(
    wanted: Mapping[str, Any], spec: Mapping[str, Any], sandbox: Sandbox, container: Container
) -> bool:
    """Probe a container once; whether it succeeds.

    Raises:
        ValueError: The probe is of a kind that the tests don't need.
    """
    seconds = float(wanted.get("timeoutSeconds", 1))
    netns = sandbox.place.machine.netns
    match wanted:
        case {"httpGet": {"port": port} as get}:
            address = (get.get("host") or sandbox.address, _number(port, spec))
            return http_status(netns, address, get.get("path", "/"), seconds=seconds) in _GOOD
        case {"tcpSocket": {"port": port}}:
            return connects(netns, (sandbox.address, _number(port, spec)), seconds=seconds)
        case {"exec": {"command": command}}:
            argv = container.exec_command(*command)
            with contextlib.suppress(subprocess.TimeoutExpired):
                done = subprocess.run(argv, capture_output=True, timeout=seconds, check=False)
                return done.returncode == 0
            return False
        case _:
            raise ValueError(f"the test kubelet has no probe such as {wanted}")


def connects(netns: Path, address: tuple[str, int], *, seconds: float = 1.0) -> bool:
    """Whether a TCP connection from a network namespace to the address comes about."""
    try:
        with socket_in(netns, socket.AF_INET) as connection:
            connection.settimeout(seconds)
            connection.connect(address)
    except OSError:
        return False
    return True


def http_status(
    netns: Path, address: tuple[str, int], path: str = "/", *, seconds: float = 5.0
) -> int:
    """The status of a GET sent from a network namespace, 0 when there is no answer."""
    try:
        with socket_in(netns, socket.AF_INET) as connection:
            connection.settimeout(seconds)
            connection.connect(address)
            client = http.client.HTTPConnection(*address)
            client.sock = connection
            client.request("GET", path, headers={"User-Agent": "kube-probe", "Connection": "close"})
            return client.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0


def _number(port: int | str, spec: Mapping[str, Any]) -> int:
    if isinstance(port, int):
        return port
    for known in spec.get("ports", ()):
        if known.get("name") == port:
            return int(known["containerPort"])
    raise ValueError(f"no port of the container is named {port}")
