"""A mesh of a command's own; nothing is left of it afterwards."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from troth.connect.findings import Attempt
from troth.connect.report import Trace
from troth.control.messages import MeshStatus
from troth.control.protocol import ask
from troth.control.state_dir import Settings, StateDirectory
from troth.demo.scenario import examples
from troth.errors import PeerError
from troth.local.init import ENDING
from troth.local.outside import Outside
from troth.manifests.files import load

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence

    from troth.demo.scenario import Try

M = TypeVar("M", bound="OwnMesh")

_MESH = "finance"
_POLICIES = "policies"
_APPLIED = "policy.yaml"
_PATIENCE_SECONDS = 20.0
_GRACE_SECONDS = 2.0
_POLL_SECONDS = 0.02


@contextlib.contextmanager
def running(on_waiting: Callable[[Sequence[str]], None]) -> Iterator[DemoMesh]:
    """Run the example mesh for as long as the context lasts; for the main thread.

    Args:
        on_waiting: Told what start-up waits for.

    Raises:
        TrothError: The mesh can't run here.
    """
    with started(DemoMesh(Path(tempfile.mkdtemp(prefix="troth-demo-"))), on_waiting) as mesh:
        yield mesh


@contextlib.contextmanager
def started(mesh: M, on_waiting: Callable[[Sequence[str]], None]) -> Iterator[M]:
    """Have a mesh run for as long as the context lasts; as of `running`."""
    with contextlib.ExitStack() as cleanup:
        for number in ENDING:
            cleanup.callback(signal.signal, number, signal.getsignal(number))
        cleanup.callback(mesh.stop)
        # Called first of these: a second Ctrl-C shall not leave half of it behind.
        for number in ENDING:
            cleanup.callback(signal.signal, number, signal.SIG_IGN)
        mesh.start(on_waiting)
        yield mesh


class OwnMesh:
    """A mesh that ends with the command that started it.

    Args:
        settings: What to run.
        state: Where it keeps its state.
    """

    def __init__(self, settings: Settings, state: StateDirectory) -> None:
        self.settings = settings
        self.state = state
        self._outside = Outside(state)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, on_waiting: Callable[[Sequence[str]], None]) -> None:
        """Start it, and return when every pod is ready; ``on_waiting`` is told what is missing.

        Raises:
            TrothError: It can't run here.
        """
        # Attached, so that it ends with us even when we are killed.
        self._process = self._outside.start(self.settings, detach=False)
        waiting: Sequence[str] = ()
        try:
            for waiting in self._outside.progress():
                on_waiting(waiting)
        except TimeoutError as error:
            raise PeerError("troth", "the mesh is not ready", "; ".join(waiting)) from error
        on_waiting(["the readiness of every pod"])
        self.wait_until(all_ready, complaint="the pods are not ready")

    def stop(self) -> None:
        """Stop it and remove what it made, whether or not it had started."""
        self._outside.stop(_GRACE_SECONDS)
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait()

    def status(self) -> MeshStatus:
        """The mesh as it is now."""
        return ask(self.state.control, "status", MeshStatus)

    def wait_until(self, is_so: Callable[[MeshStatus], bool], *, complaint: str) -> MeshStatus:
        """Wait until the mesh is so.

        Raises:
            PeerError: It doesn't become so: the ``complaint``, and what the mesh says.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not is_so(status := self.status()):
            if time.monotonic() > deadline:
                words = [*status.waiting_for, *map(str, status.problems)]
                raise PeerError("troth", complaint, "; ".join(words))
            time.sleep(_POLL_SECONDS)
        return status


class DemoMesh(OwnMesh):
    """The example mesh, with at most one policy at a time.

    Args:
        home: An empty directory for manifests and state; gone when it has stopped.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._examples = examples()
        self._manifests = home / "manifests"
        settings = Settings(paths=(str(self._manifests),), uplink=False)
        super().__init__(settings, StateDirectory(home / "state"))

    def start(self, on_waiting: Callable[[Sequence[str]], None]) -> None:
        """Write its manifests and start it; as of `OwnMesh`."""
        shutil.copytree(self._examples / _MESH, self._manifests)
        super().start(on_waiting)

    def stop(self) -> None:
        """Stop it and remove its directory; as of `OwnMesh`."""
        super().stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def apply(self, file: str) -> str:
        """Have ``file`` of the example policies in force and no other; empty for none.

        Returns:
            Its text.

        Raises:
            TrothError: The mesh doesn't take it.
        """
        applied = self._manifests / _APPLIED
        text = ""
        wanted: tuple[str, ...] = ()
        if file:
            source = self._examples / _POLICIES / file
            text = source.read_text()
            wanted = tuple(sorted(policy.key for policy in load([source]).policies.values()))
            # Beside the directory first, so that it appears there whole.
            new = self._manifests.with_name(_APPLIED)
            new.write_text(text)
            new.replace(applied)
        else:
            applied.unlink(missing_ok=True)
        self.wait_until(
            lambda status: status.ready and status.policies == wanted,
            complaint=f"{file or 'the removal of the policy'} is not in force",
        )
        return text

    def connect(self, tried: Try) -> Attempt:
        """Make an ordinary request from inside the source's pod."""
        return ask(
            self.state.control,
            "connect",
            Attempt,
            source=tried.source,
            destination=tried.destination,
            port=tried.port,
        )

    def trace(self, tried: Try) -> Trace:
        """Make a traced handshake from the source's pod with the destination's tunnel port."""
        return ask(
            self.state.control,
            "trace",
            Trace,
            source=tried.source,
            destination=tried.destination,
            port=tried.port,
            credentials=tried.credentials,
            claim=tried.claim,
        )


def all_ready(status: MeshStatus) -> bool:
    """Whether every pod is ready, and Services lead to it."""
    # Only then also acted on: services lead to pods that are ready.
    return status.ready and all(pod.ready for pod in status.pods)
