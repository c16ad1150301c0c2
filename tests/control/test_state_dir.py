from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from troth.control.state_dir import AuthorityFiles, Settings, StateDirectory
from troth.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    directory = StateDirectory(tmp_path / "deep" / "state")
    directory.prepare()
    return directory


def test_the_directory_is_made_for_its_owner_alone(state: StateDirectory) -> None:
    status = state.path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid == os.geteuid()


def test_a_directory_of_ours_is_taken_again_whatever_a_mesh_left_in_it(
    state: StateDirectory,
) -> None:
    state.write_private(state.settings, b"{}")
    state.prepare()
    assert state.settings.read_bytes() == b"{}"


def foreign_files(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / "thesis.tex").touch()


def file_instead(path: Path) -> None:
    path.touch()


def link(path: Path) -> None:
    path.with_name("elsewhere").mkdir(mode=0o700)
    path.symlink_to("elsewhere")


def dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def open_to(mode: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        path.chmod(mode)

    return make


@pytest.mark.parametrize(
    ("make", "found"),
    [
        pytest.param(foreign_files, "holds files that are not troth's", id="foreign files"),
        pytest.param(link, "not a directory (or a link to one)", id="a link"),
        pytest.param(dangling_link, "not a directory (or a link to one)", id="a dangling link"),
        pytest.param(open_to(0o770), "is open to others (mode 770)", id="open to the group"),
        pytest.param(open_to(0o701), "is open to others (mode 701)", id="others may enter"),
        pytest.param(open_to(0o744), "is open to others (mode 744)", id="others may list"),
        pytest.param(file_instead, "not a directory (or a link to one)", id="a file"),
    ],
)
def test_a_place_that_is_not_safely_ours_is_refused_and_left_as_it_was(
    tmp_path: Path, make: Callable[[Path], None], found: str
) -> None:
    path = tmp_path / "state"
    make(path)
    before = path.lstat().st_mode, sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as refused:
        StateDirectory(path).prepare()
    (problem,) = refused.value.problems
    assert (problem.subject, problem.found) == (f"state directory {path}", found)
    assert problem.wanted
    assert (path.lstat().st_mode, sorted(tmp_path.rglob("*"))) == before


def test_a_place_where_no_directory_can_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made: Not a directory"):
        StateDirectory(tmp_path / "file" / "state").prepare()


def test_a_directory_of_another_user_is_refused_before_anything_in_it_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever made it could name any process there as the one that `troth down` is to end.
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(InputError, match="belongs to user"):
        StateDirectory(tmp_path)


def test_a_directory_that_became_another_users_is_not_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDirectory(tmp_path / "state")
    state.path.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(InputError, match="belongs to user"):
        state.prepare()


def test_a_path_too_long_for_sockets_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    with pytest.raises(InputError, match="too long for Unix sockets") as refused:
        StateDirectory(path).prepare()
    assert "bytes shorter" in refused.value.problems[0].wanted
    assert not path.exists()


def test_one_at_a_time_holds_the_lock(state: StateDirectory) -> None:
    first = state.try_lock()
    assert first is not None
    assert state.try_lock() is None
    os.close(first)
    second = state.try_lock()
    assert second is not None
    os.close(second)


def test_the_lock_is_not_passed_on_to_programs_unasked(state: StateDirectory) -> None:
    lock = state.try_lock()
    assert lock is not None
    assert not os.get_inheritable(lock)
    os.close(lock)


def test_clearing_removes_what_a_mesh_left_and_follows_no_link(
    state: StateDirectory, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    state.pods.mkdir()
    (state.pods / "uid").mkdir()
    (state.pods / "uid" / "link").symlink_to(precious)
    (state.path / "link").symlink_to(precious)
    os.mkfifo(state.access_log)
    state.write_private(state.log, b"words")
    state.clear()
    assert not any(each.exists() for each in (state.pods, state.access_log, state.log))
    assert not (state.path / "link").is_symlink()
    assert (precious / "file").exists()
    state.prepare()


def test_removing_leaves_nothing(state: StateDirectory) -> None:
    lock = state.try_lock()
    assert lock is not None
    state.netns.mkdir()
    state.remove()
    os.close(lock)
    assert not state.path.exists()


def test_a_private_file_is_for_its_owner_alone_and_never_written_through_a_link(
    state: StateDirectory, tmp_path: Path
) -> None:
    umask = os.umask(0)
    try:
        state.write_private(state.settings, b"{}")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(state.settings.stat().st_mode) == 0o600
    precious = tmp_path / "precious"
    precious.write_text("old")
    state.pid.symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        state.write_private(state.pid, b"new")
    assert precious.read_text() == "old"


def test_settings_are_read_as_they_were_written(state: StateDirectory) -> None:
    settings = Settings(
        paths=("/manifests",),
        trust_domain="example.org",
        authority=AuthorityFiles(certificate="/ca.pem", key="/ca.key"),
        uplink=True,
    )
    state.write_private(state.settings, msgspec.json.encode(settings))
    assert state.read_settings() == settings


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({"TROTH_STATE_DIR": "/given"}, "/given", id="given"),
        pytest.param({"TROTH_STATE_DIR": "relative"}, f"{Path.cwd()}/relative", id="made absolute"),
    ],
)
def test_the_environment_says_where_the_state_is(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(StateDirectory().path) == expected


@pytest.mark.parametrize(
    ("user", "runtime", "expected"),
    [
        pytest.param(0, "", "/run/troth", id="root"),
        pytest.param(0, "yes", "/run/troth", id="root with a session"),
        pytest.param(1000, "yes", "{tmp}/troth", id="a user with a session"),
        pytest.param(1000, "", "{tmp}/troth-1000", id="a user without one"),
    ],
)
def test_without_a_word_everyone_has_a_place_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, runtime: str, expected: str
) -> None:
    monkeypatch.delenv("TROTH_STATE_DIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path) if runtime else "")
    assert str(StateDirectory().path) == expected.format(tmp=tmp_path)
