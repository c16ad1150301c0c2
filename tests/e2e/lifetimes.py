"""A mesh from its beginning to its end: ways to run one, and what it could leave behind."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tests.e2e.harness import PATIENCE_SECONDS, TROTH, eventually
from tests.e2e.manifests import document, namespace, server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.e2e.harness import Mesh

EXAMPLE = Path(__file__).parents[2] / "examples" / "finance"
THREE_PODS = {path.name: path.read_text() for path in sorted(EXAMPLE.iterdir())}
ONE_POD = {
    "mesh.yaml": document([namespace("finance", mesh=True), *server("finance/web", "http:8080")])
}
CTRL_C = b"\x03"


class MakeMesh(Protocol):
    """Makes a mesh that isn't up yet, on the test's own machine."""

    def __call__(self, manifests: Mapping[str, str], *, plain: bool = False) -> Mesh: ...


def traces(mesh: Mesh) -> dict[str, Any]:
    """What a mesh could leave behind on its host."""
    commands = {
        "links": ["ip", "-o", "link"],
        "addresses": ["ip", "-o", "address"],
        "rules": ["nft", "list", "ruleset"],
        "namespaces": ["ip", "netns"],
        "mounts": ["cat", "/proc/self/mountinfo"],
        "processes": ["ps", "-e", "-ww", "-o", "state=,comm="],
    }
    found: dict[str, Any] = {
        name: [
            line
            for line in mesh.host.run(*command).stdout.splitlines()
            # The machine's first process here is no init that reaps orphans.
            if name != "processes" or not line.startswith("Z")
        ]
        for name, command in commands.items()
    }
    found["state"] = mesh.state.exists()
    return found


@contextlib.contextmanager
def leaving_nothing(mesh: Mesh) -> Iterator[None]:
    """See that the host is afterwards as it was before."""
    before = traces(mesh)
    yield
    with contextlib.suppress(AssertionError):  # the one below says more
        eventually(lambda: traces(mesh) == before)
    assert traces(mesh) == before


class Foreground:
    """`troth up` on a terminal, as a person runs it."""

    def __init__(self, mesh: Mesh, *, ready: bool = True) -> None:
        self._terminal, end = os.openpty()
        self._process = mesh.host.start(
            *("setsid", "--ctty", "--wait", TROTH, "up", str(mesh.directory)),
            env=mesh.environment,
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
        )
        os.close(end)
        self._output = b""
        if not ready:
            return
        self.read_until(b"Ctrl-C ends it")
        # Of the mesh's processes it is the only one in the host's own namespaces.
        commands = mesh.host.run("ps", "-e", "-ww", "-o", "pid=,args=").stdout.splitlines()
        (self.pid,) = (
            int(line.split()[0])
            for line in commands
            if f"{TROTH} up" in line and "setsid" not in line
        )

    def read_until(self, words: bytes) -> None:
        """Wait until it has said this."""
        while words not in self._output:
            try:
                self._read()
            except OSError as error:  # Linux' way of saying that the other end is closed
                raise AssertionError(self.output) from error

    @property
    def output(self) -> str:
        """What it said."""
        return self._output.decode()

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._terminal, keys)

    def wait(self) -> int:
        """Wait until it has ended; its exit code."""
        with contextlib.suppress(OSError):  # Linux' way of saying that the other end is closed
            while True:
                self._read()
        os.close(self._terminal)
        return self._process.wait(PATIENCE_SECONDS)

    def _read(self) -> None:
        data = os.read(self._terminal, 65536)
        assert data, self._output
        self._output += data
