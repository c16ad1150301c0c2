"""Where a scenario plays: outside the mesh, inside it, or across its border."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.e2e.harness import PATIENCE_SECONDS
from tests.e2e.manifests import policy
from tests.e2e.policies import apply
from tests.servers.manifests import BARE, INSIDE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.harness import Mesh

CHANGES = ("STRICT", "PERMISSIVE", "DISABLE", "PERMISSIVE")
"""The modes that a namespace goes through, from PERMISSIVE on, while something is going on."""


class Done(NamedTuple):
    """What became of a command."""

    code: int
    out: str
    err: str


class Pods:
    """The pods of a mesh, each with a process in it that runs commands.

    So a command costs what it costs itself, and not the start of `troth exec` each time.

    Args:
        mesh: All of them are of, or beside.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._runners: dict[str, subprocess.Popen[Any]] = {}
        self._addresses: dict[str, dict[str, str]] = {}
        self._mode = ""
        for pod in mesh.status()["pods"]:
            families = {"IPv6" if ":" in each else "IPv4": each for each in pod["addresses"]}
            self._addresses[f"{pod['namespace']}/{pod['name']}"] = families

    def addresses(self, pod: str) -> dict[str, str]:
        """The addresses of a pod by family: ``IPv4`` and ``IPv6``."""
        return self._addresses[pod]

    def run(self, pod: str, argv: tuple[str, ...], stdin: str = "") -> Done:
        """Run a command in a pod, in its first container."""
        runner = self._runners.get(pod) or self._start(pod)
        runner.stdin.write(json.dumps([argv, stdin]) + "\n")  # type: ignore[union-attr]  # a pipe
        runner.stdin.flush()  # type: ignore[union-attr]
        answer = runner.stdout.readline()  # type: ignore[union-attr]
        return Done(*json.loads(answer))

    def set_mode(self, mode: str) -> None:
        """Make this the mode of every pod in the mesh, and wait until it is enforced."""
        if mode == self._mode:
            return
        inside = (name for name in self._addresses if name.startswith(f"{INSIDE}/"))
        apply(self.mesh, policy(f"{INSIDE}/default", mode), modes=dict.fromkeys(inside, mode))
        self._mode = mode

    def close(self) -> None:
        """End what runs commands."""
        for runner in self._runners.values():
            runner.communicate()

    def _start(self, pod: str) -> subprocess.Popen[Any]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started = self.mesh.start(pod, "python3", "-I", "-c", _RUNNER, **pipes)
        self._runners[pod] = started
        return started


_AT_MOST = PATIENCE_SECONDS
_RUNNER = f"""
import json, subprocess, sys
for line in sys.stdin:
    argv, given = json.loads(line)
    try:
        done = subprocess.run(argv, input=given.encode(), capture_output=True, timeout={_AT_MOST})
        answer = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        answer = 124, error.stdout or b"", b"it took too long"
    code, *said = answer
    print(json.dumps([code, *(text.decode(errors="replace") for text in said)]), flush=True)
"""


@dataclass(frozen=True)
class Place:
    """Which namespace has the servers, and which the clients.

    Attributes:
        pods: All pods.
        servers: The namespace that the servers are in.
        clients: The namespace that those who call them are in.
        mode: What is in force in the mesh.
    """

    pods: Pods = field(repr=False)
    servers: str
    clients: str
    mode: str

    def name(self, service: str) -> str:
        """A Service's name as any client may use it."""
        return f"{service}.{self.servers}"

    def server(self, pod: str) -> dict[str, str]:
        """The addresses of a server's pod by family: ``IPv4`` and ``IPv6``."""
        return self.pods.addresses(f"{self.servers}/{pod}")

    def client(self, pod: str = "client") -> dict[str, str]:
        """The addresses of a client's pod by family."""
        return self.pods.addresses(f"{self.clients}/{pod}")

    def run(self, *argv: str, client: str = "client", stdin: str = "") -> str:
        """What a command prints that a client's pod runs; it has to succeed."""
        return _succeeded(argv, self.attempt(*argv, client=client, stdin=stdin))

    def attempt(self, *argv: str, client: str = "client", stdin: str = "") -> Done:
        """Run a command in a client's pod, whatever becomes of it."""
        return self.pods.run(f"{self.clients}/{client}", argv, stdin)

    def on(self, server: str, *argv: str) -> str:
        """What a command prints that a server's pod runs; it has to succeed."""
        return _succeeded(argv, self.pods.run(f"{self.servers}/{server}", argv))

    @contextlib.contextmanager
    def crashed(self, server: str) -> Iterator[None]:
        """Kill a server, and let it start again only afterwards."""
        self.on(server, "bash", "-c", "touch /data/down; kill -KILL $(cat /data/pid)")
        try:
            yield
        finally:
            self.on(server, "rm", "/data/down")

    def session(self, *argv: str, client: str = "client") -> Session:
        """Start a command in a client's pod, to talk with."""
        return Session(self.pods.mesh, f"{self.clients}/{client}", *argv)

    def server_session(self, *argv: str, server: str = "client") -> Session:
        """Start a command in a pod of the servers' namespace."""
        return Session(self.pods.mesh, f"{self.servers}/{server}", *argv)

    def changes(self) -> Iterator[str]:
        """Go through all modes that let the clients in, with time to do something in each."""
        for mode in CHANGES:
            if mode != "STRICT" or self.clients == INSIDE or self.servers == BARE:
                self.pods.set_mode(mode)
                yield mode


def _succeeded(argv: tuple[str, ...], done: Done) -> str:
    assert done.code == 0, (argv, done)
    return done.out


class Session:
    """A program in a pod that is spoken to line by line, on a connection that stays.

    Args:
        mesh: Where.
        pod: ``NAMESPACE/NAME``.
        argv: The program.
    """

    def __init__(self, mesh: Mesh, pod: str, *argv: str) -> None:
        self._process = mesh.start(
            pod,
            *("python3", "-I", "-c", _GUARD, *argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._argv = argv
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        self._reader.join()
        self._process.stdout.close()  # type: ignore[union-attr]  # so is this
        self._process.wait()

    def say(self, line: str) -> None:
        """Write a line to it."""
        self._process.stdin.write(f"{line}\n")  # type: ignore[union-attr]  # it is a pipe
        self._process.stdin.flush()  # type: ignore[union-attr]

    def hear(self, wanted: str, *, seconds: float = PATIENCE_SECONDS) -> str:
        """Wait for a line that contains ``wanted``, and return it."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{self._argv} never said {wanted!r}: {self.said}") from None
            assert line is not None, f"{self._argv} ended without {wanted!r}: {self.said}"
            self.said.append(line)
            if wanted in line:
                return line.rstrip("\n")

    def heard(self, wanted: str) -> bool:
        """Whether it has said so by now."""
        with contextlib.suppress(queue.Empty):
            while (line := self._lines.get_nowait()) is not None:
                self.said.append(line)
        return any(wanted in line for line in self.said)

    def ask(self, line: str, wanted: str) -> str:
        """Write a line, and wait for one that contains ``wanted``."""
        self.say(line)
        return self.hear(wanted)

    def _read(self) -> None:
        for line in self._process.stdout:  # type: ignore[union-attr]
            self._lines.put(line)
        self._lines.put(None)


# Ends the program when the test has nothing more to say: killing `troth exec` doesn't.
_GUARD = """
import os, subprocess, sys, threading
program = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
threading.Thread(target=lambda: os._exit(program.wait()), daemon=True).start()
for line in sys.stdin.buffer:
    program.stdin.write(line)
    program.stdin.flush()
program.kill()
"""


def find_place(pods: Pods, name: str) -> Place:
    """A place by its name, with its mode in force."""
    mode, servers, clients = PLACES[name]
    pods.set_mode(mode)
    return Place(pods, servers, clients, mode)


PLACES = {
    "outside the mesh": ("PERMISSIVE", BARE, BARE),
    "PERMISSIVE": ("PERMISSIVE", INSIDE, INSIDE),
    "STRICT": ("STRICT", INSIDE, INSIDE),
    "into the mesh": ("PERMISSIVE", INSIDE, BARE),
    "out of the mesh": ("STRICT", BARE, INSIDE),
}
"""By name: the mode in the mesh, the servers' namespace, the clients' namespace."""
