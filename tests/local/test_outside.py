"""What a mesh leaves on its host, seen from outside of it."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from troth.control.state_dir import Settings, StateDirectory
from troth.errors import EnvironmentLackError
from troth.local import outside
from troth.local import uplink as uplinks
from troth.local.outside import Outside, last_words

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("uplink", [uplinks.Uplink(3), None], ids=["with an uplink", "without"])
def test_only_the_uplink_that_a_mesh_has_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, uplink: uplinks.Uplink | None
) -> None:
    removed: list[uplinks.Uplink] = []
    monkeypatch.setattr(outside, "is_privileged", lambda: True)
    monkeypatch.setattr(uplinks, "remove", removed.append)
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    if uplink:
        state.write_private(state.uplink, msgspec.json.encode(uplink))
    assert Outside(state).stop()
    assert removed == ([uplink] if uplink else [])
    assert not state.path.exists()


@pytest.fixture
def deaf_unshare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose child does not die with it: the real one's, too, until it has told the kernel."""
    take_for_unshare("#!/bin/sh\nsleep 60 &\nwait\n", tmp_path, monkeypatch)
    monkeypatch.setattr(outside, "_STOP_SECONDS", 0.5)


def take_for_unshare(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "unshare").write_text(script)
    (tools / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")


@pytest.mark.usefixtures("deaf_unshare")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("detach", [False, True], ids=["in the foreground", "detached"])
def test_a_signal_while_the_mesh_is_made_leaves_no_mesh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, *, detach: bool
) -> None:
    popen = subprocess.Popen

    def interrupted(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = popen(*args, **options)
        signal.raise_signal(number)
        return process

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    former = signal.signal(number, interrupt)
    try:
        assert_start_leaves_nothing(tmp_path, detach=detach)
    finally:
        signal.signal(number, former)


@pytest.mark.usefixtures("deaf_unshare")
def test_a_signal_before_the_mesh_has_its_namespaces_leaves_no_mesh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_pid: int) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(outside, "_argument_zero", interrupt)
    assert_start_leaves_nothing(tmp_path, detach=True)


def test_a_kernel_that_refuses_namespaces_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_for_unshare("#!/bin/sh\necho not permitted >&2\nexit 1\n", tmp_path, monkeypatch)
    state = StateDirectory(tmp_path / "state")
    with pytest.raises(EnvironmentLackError, match="refuses the mesh its own namespaces: not"):
        Outside(state).start(Settings(paths=()), detach=True)
    assert not state.path.exists()


def assert_start_leaves_nothing(tmp_path: Path, *, detach: bool) -> None:
    """See that an interrupted start leaves neither files nor a process that holds the lock."""
    state = StateDirectory(tmp_path / "state")
    with pytest.raises(KeyboardInterrupt):
        Outside(state).start(Settings(paths=()), detach=detach)
    assert not state.path.exists()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            'timestamp=2026 level=error event="it ends" reason="no \\"a\\" there; go"\nlevel=info',
            'no "a" there; go',
        ),
        ("timestamp=2026 level=error event=x reason=gone", "gone"),
        ("Traceback (most recent call last):\n  File\nKeyError: 1", "KeyError: 1"),
        ("", "it left no log"),
    ],
    ids=["quoted", "plain", "a traceback", "nothing"],
)
def test_what_a_mesh_said_last_is_told_without_the_rest_of_its_log(log: str, words: str) -> None:
    assert last_words(log.splitlines()) == words
