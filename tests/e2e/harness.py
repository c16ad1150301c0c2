"""A machine of the test's own, and a mesh on it, driven by the real `troth` command.

A `Host` has network, mount and PID namespaces of its own (and a user namespace when the tests run
as a plain user), so nothing here needs root, touches the machine or outlives the test. To look
around in one that a debugger holds up, run what `Host.enter` says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from troth.control.messages import MeshStatus
from troth.control.protocol import call
from troth.control.state_dir import StateDirectory
from troth.local.launch import join_command
from troth.traffic.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

TROTH = str(Path(sys.executable).with_name("troth"))
PYTHON = "python3"
PATIENCE_SECONDS = 120.0
"""What a machine that is busy with something else may take for what else takes a moment."""

GRACE_SECONDS = 2
"""What pods have to end when a test is over, whatever they ask for."""

# Of a plain user nothing is left but what lets root's own UID be mapped into a user namespace.
_PLAIN = ("setpriv", "--inh-caps=-all", "--bounding-set=-all,+setfcap", "--")


def eventually(
    look: Callable[[], T], *, seconds: float = PATIENCE_SECONDS, what: str = "the condition"
) -> T:
    """Look until what is seen is truthy, and return it."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s"
        time.sleep(0.05)
    return seen


class Host:
    """A machine made of namespaces; everything on it ends with it."""

    def __enter__(self) -> Self:
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self._keeper = subprocess.Popen(
            [
                *("unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child"),
                *("--mount-proc", "--", "sh", "-c", "ip link set lo up && exec sleep infinity"),
            ]
        )
        children = Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children")
        first = int(
            eventually(lambda: self._sleeping(children.read_text().split()), what="the namespaces")
        )
        keep = ["--user", "--preserve-credentials"] if user else []
        self.keeper = self._keeper.pid
        self.enter = ["nsenter", f"--target={first}", *keep, "--net", "--mount", "--pid", "--"]
        return self

    def __exit__(self, *_: object) -> None:
        self._keeper.kill()
        self._keeper.wait()

    def run(
        self, *argv: str, check: bool = True, plain: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine and wait for it."""
        options = {"capture_output": True, "text": True, "timeout": PATIENCE_SECONDS} | options
        result = subprocess.run(self.command(*argv, plain=plain), check=False, **options)
        assert not check or result.returncode == 0, (argv, result.returncode, result.stderr)
        return result

    def start(self, *argv: str, plain: bool = False, **options: Any) -> subprocess.Popen[Any]:
        """Start a command on the machine."""
        return subprocess.Popen(self.command(*argv, plain=plain), **options)

    def command(self, *argv: str, plain: bool = False) -> list[str]:
        """The command line that runs ``argv`` on the machine, with or without privileges."""
        return [*self.enter, *(_PLAIN if plain else ()), *argv]

    @staticmethod
    def _sleeping(children: Sequence[str]) -> str:
        for child in children:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if command.startswith(b"sleep\0"):
                return child
        return ""


class Mesh:
    """A mesh started by `troth up --detach` from a directory of manifests.

    Args:
        host: Where it runs.
        manifests: File names and contents to begin with.
        plain: Start it as a plain user would, without privileges.
        options: More for `troth up`.
        files: Where its files go, if not where temporary ones usually do.
    """

    def __init__(
        self,
        host: Host,
        manifests: Mapping[str, str],
        *,
        plain: bool = False,
        options: Sequence[str] = (),
        files: str | None = None,
    ) -> None:
        self.host = host
        self.plain = plain
        self.options = tuple(options)
        # Short, because Unix sockets' paths are at most 107 bytes long.
        self.home = Path(tempfile.mkdtemp(prefix="troth-e2e-", dir=files))
        self.state = self.home / "state"
        self.directory = self.home / "manifests"
        self.directory.mkdir()
        self.environment = {**os.environ, "TROTH_STATE_DIR": str(self.state)}
        for name, content in manifests.items():
            self.write(name, content)

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.troth("down", f"--grace-period={GRACE_SECONDS}")
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def up(self) -> None:
        """Start it, and return when it is ready."""
        self.troth("up", "--detach", *self.options, str(self.directory))

    def write(self, name: str, content: str) -> None:
        """Put a manifest file in place at once, as an editor does."""
        new = self.home / f"{name}.new"
        new.write_text(content)
        new.replace(self.directory / name)

    def delete(self, name: str) -> None:
        """Remove a manifest file."""
        (self.directory / name).unlink()

    def troth(
        self, *arguments: str, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run the `troth` command and wait for it."""
        return self.host.run(
            TROTH, *arguments, check=check, plain=self.plain, env=self.environment, **options
        )

    def start_troth(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the `troth` command; its standard error is a pipe."""
        return self.host.start(
            *(TROTH, *arguments),
            plain=self.plain,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def exec(
        self, pod: str, *command: str, check: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod, as `troth exec` does."""
        return self.host.run(*self._in_pod(pod, command), check=check, plain=self.plain, **options)

    def start(self, pod: str, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command in a pod, as `troth exec` does."""
        return self.host.start(*self._in_pod(pod, command), plain=self.plain, **options)

    def on_node(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the mesh's own namespaces, outside every pod."""
        return self.host.run(*self._enter(), *command, plain=self.plain, **options)

    def status(self) -> dict[str, Any]:
        """What `troth status -o json` reports, without a process for each question."""
        (answer,) = self.ask("status")
        status = msgspec.convert(answer, MeshStatus, strict=False)
        return dict(msgspec.json.decode(msgspec.json.encode(status)))

    def pod(self, name: str) -> dict[str, Any]:
        """One pod's part of the status, by ``NAMESPACE/NAME``."""
        for pod in self.status()["pods"]:
            if name in {f"{pod['namespace']}/{pod['name']}", pod["workload"]}:
                return dict(pod)
        raise AssertionError(f"no pod {name}")

    def events(self) -> list[dict[str, Any]]:
        """The connections seen so far, oldest first, as `troth events -o json` has them."""
        return [
            {"schema": "troth/event/v1", **json.loads(msgspec.json.encode(connection))}
            for answer in self.ask("events", follow=False)
            for connection in (msgspec.convert(answer, Connection),)
        ]

    def event(self, **wanted: Any) -> dict[str, Any]:
        """Wait for a connection with these properties (``source`` and ``destination`` by pod)."""

        def find() -> dict[str, Any] | None:
            for event in reversed(self.events()):
                seen = event | {
                    "source": event["source"]["pod"],
                    "destination": event["destination"]["pod"],
                    "port": event["destination"]["port"],
                }
                if wanted.items() <= seen.items():
                    return dict(event)
            return None

        found = eventually(find, what=f"a connection with {wanted}")
        assert found is not None
        return found

    def wait_ready(self) -> None:
        """Wait until everything is as the manifests say."""
        eventually(lambda: self.status()["ready"], what="the mesh's readiness")

    def fetch(self, pod: str, url: str, *, seconds: float = 5.0) -> str | None:
        """GET ``url`` from inside a pod: the body, or None when there was no answer."""
        result = self.exec(pod, PYTHON, "-c", _FETCH, url, str(seconds))
        return result.stdout if result.returncode == 0 else None

    def _enter(self) -> list[str]:
        """What `troth exec` puts before a command to run it in the mesh's own namespaces."""
        first = json.loads(StateDirectory(self.state).pid.read_text())["pid"]
        user = ["--user", "--preserve-credentials"] if self.plain else []
        return ["nsenter", f"--target={first}", *user, "--mount", "--net", "--pid", "--"]

    def _in_pod(self, pod: str, command: Sequence[str]) -> list[str]:
        """What `troth exec` becomes, without a start of it for each command."""
        (found,) = self.ask("find", name=pod)
        files = StateDirectory(self.state).pods / found["uid"]
        spec = files / f"{found['containers'][0]}.json"
        assert spec.exists(), f"{found['pod']} does not run yet: {found['waiting']}"
        return [*self._enter(), *join_command(spec, command)]

    def ask(self, op: str, **arguments: object) -> list[dict[str, Any]]:
        """Ask the mesh itself, as the commands do, without a process for each question."""
        until = time.monotonic() + PATIENCE_SECONDS
        return list(call(StateDirectory(self.state).control, op, until, **arguments))


_FETCH = """
import sys, urllib.request
url, seconds = sys.argv[1], float(sys.argv[2])
try:
    with urllib.request.urlopen(url, timeout=seconds) as reply:
        sys.stdout.write(reply.read().decode())
except OSError as error:
    sys.exit(str(error))
"""
