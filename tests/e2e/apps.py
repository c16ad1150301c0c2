"""Apps for the end-to-end tests: manifests for the traffic programs, and ways to use them.

`SERVER` speaks a protocol on each of its ports; a client is any pod, with `play` and `Session`.
"""

from __future__ import annotations

import json
import subprocess
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.e2e.harness import PATIENCE_SECONDS, PYTHON, eventually

if TYPE_CHECKING:
    from tests.e2e.harness import Mesh

_PROGRAMS = Path(__file__).with_name("programs")
CLIENT = str(_PROGRAMS / "traffic_client.py")
SERVER = str(_PROGRAMS / "traffic_server.py")

HTTP = 8080
ECHO, DOWNLOAD, UPLOAD, SPEAK_FIRST, END_FIRST = 7001, 7002, 7003, 7004, 7005
GUSH, SIP, LINES, WATCH_END, ABORT = 7006, 7007, 7008, 7009, 7010
SERVER_PORTS = (HTTP, *range(ECHO, ABORT + 1))


def namespace(name: str, *, in_mesh: bool = True) -> str:
    """A Namespace, in the mesh or not."""
    labels = "{troth.dev/mesh: enabled}" if in_mesh else "{}"
    return f"---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n"


def idle_pod(name: str, *, namespace: str) -> str:
    """A pod that does nothing, to run clients in."""
    return textwrap.dedent(f"""\
        ---
        apiVersion: v1
        kind: ServiceAccount
        metadata: {{name: {name}, namespace: {namespace}}}
        ---
        apiVersion: v1
        kind: Pod
        metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
        spec:
          serviceAccountName: {name}
          containers:
          - {{name: idle, image: none, command: [sleep, infinity]}}
        """)


def server(name: str, *, namespace: str, replicas: int = 1, ready_unless: str = "") -> str:
    """A Deployment of `SERVER`, its ServiceAccount and a Service with all of its ports.

    Args:
        name: Of all three.
        namespace: Where they are.
        replicas: How many.
        ready_unless: A directory; a replica isn't ready while a file there has its name.
    """
    probe = "exec: {command: [sh, -c, 'test ! -e /unready/$(hostname)']}"
    mounts = "volumeMounts: [{name: unready, mountPath: /unready}]"
    volumes = f"volumes: [{{name: unready, hostPath: {{path: {ready_unless}}}}}]"
    if not ready_unless:
        probe, mounts, volumes = f"tcpSocket: {{port: {HTTP}}}", "", ""
    ports = ", ".join(f"{{containerPort: {port}}}" for port in SERVER_PORTS)
    service_ports = ", ".join(f"{{name: p{port}, port: {port}}}" for port in SERVER_PORTS)
    return textwrap.dedent(f"""\
        ---
        apiVersion: v1
        kind: ServiceAccount
        metadata: {{name: {name}, namespace: {namespace}}}
        ---
        apiVersion: apps/v1
        kind: Deployment
        metadata: {{name: {name}, namespace: {namespace}}}
        spec:
          replicas: {replicas}
          selector: {{matchLabels: {{app: {name}}}}}
          template:
            metadata: {{labels: {{app: {name}}}}}
            spec:
              serviceAccountName: {name}
              {volumes}
              containers:
              - name: server
                image: none
                command: [{PYTHON}, {SERVER}]
                {mounts}
                ports: [{ports}]
                readinessProbe:
                  {probe}
                  periodSeconds: 1
                  failureThreshold: 1
        ---
        apiVersion: v1
        kind: Service
        metadata: {{name: {name}, namespace: {namespace}}}
        spec:
          selector: {{app: {name}}}
          ports: [{service_ports}]
        """)


def policy(mode: str, *, namespace: str, ports: dict[int, str] | None = None, app: str = "") -> str:
    """A PeerAuthentication for a namespace, or for the pods of one ``app``."""
    selector = f"selector: {{matchLabels: {{app: {app}}}}}" if app else ""
    by_port = ", ".join(f"{port}: {{mode: {mode}}}" for port, mode in (ports or {}).items())
    return textwrap.dedent(f"""\
        ---
        apiVersion: security.istio.io/v1
        kind: PeerAuthentication
        metadata: {{name: {app or "default"}, namespace: {namespace}}}
        spec:
          {selector}
          mtls: {{mode: {mode}}}
          {f"portLevelMtls: {{{by_port}}}" if by_port else ""}
        """)


def play(mesh: Mesh, pod: str, role: str, *arguments: object) -> dict[str, Any]:
    """Run a client (host, port and what its role needs) in a pod to its end; what it saw."""
    result = mesh.exec(pod, PYTHON, CLIENT, role, *map(str, arguments))
    assert result.returncode == 0, result.stderr
    seen: dict[str, Any] = json.loads(result.stdout)
    return seen


def said(mesh: Mesh, pod: str, event: str, **wanted: object) -> dict[str, Any]:
    """Wait until the server in ``pod`` has said something like this; its newest such line."""

    def find() -> dict[str, Any] | None:
        for line in reversed(mesh.troth("logs", pod).stdout.splitlines()):
            words: dict[str, Any] = json.loads(line)
            if words["event"] == event and wanted.items() <= words.items():
                return words
        return None

    found = eventually(find, what=f"{pod} saying {event} {wanted}")
    assert found is not None
    return found


class Session:
    """A client that stays connected, as ``psql`` and ``redis-cli`` do: a command, an answer."""

    def __init__(self, mesh: Mesh, pod: str, host: str, port: int = LINES) -> None:
        self._client = mesh.start(
            pod,
            *(PYTHON, CLIENT, "session", host, str(port)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._asked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.kill()
        self._release()

    def ask(self, *commands: str) -> set[str]:
        """Send commands all at once, see that the answers are right; returns who answered."""
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write("".join(f"{command}\n" for command in commands))
        names = set()
        for command in commands:
            self._asked += 1
            name, number, answer = self._client.stdout.readline().split(maxsplit=2)
            assert (int(number), answer.rstrip("\n")) == (self._asked, command)
            names.add(name)
        return names

    def end(self) -> int:
        """End our side; returns the client's exit code once the server has ended its own."""
        assert self._client.stdin is not None
        self._client.stdin.close()
        try:
            return self._client.wait(PATIENCE_SECONDS)
        finally:
            self._release()

    def _release(self) -> None:
        for pipe in (self._client.stdin, self._client.stdout):
            assert pipe is not None
            pipe.close()
        self._client.wait()
