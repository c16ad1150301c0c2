from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from troth.local.processes import ContainerLog

if TYPE_CHECKING:
    from pathlib import Path


async def test_what_is_in_the_pipe_at_the_end_is_kept(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "app.log")
    writer = log.open_pipe()
    os.write(writer, b"last words\n")
    log.close()
    os.close(writer)
    assert (tmp_path / "app.log").read_bytes() == b"last words\n"


async def test_a_log_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "app.log", limit=10)
    for text in (b"one\n", b"two\n", b"three\n", b"four\n", b"five\n"):
        log.write(text)
    log.close()
    assert (tmp_path / "app.log").read_bytes() == b"four\nfive\n"
    assert (tmp_path / "app.log.1").read_bytes() == b"three\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.log", "app.log.1"]


async def test_a_log_goes_on_where_it_was(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        log = ContainerLog(tmp_path / "app.log")
        log.write(text)
        log.close()
    assert (tmp_path / "app.log").read_bytes() == b"one\ntwo\n"


async def test_others_may_not_read_a_log(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "app.log")
    log.write(b"x")
    log.close()
    assert stat.S_IMODE((tmp_path / "app.log").stat().st_mode) == 0o600


async def test_a_log_that_cannot_be_written_does_not_stop_the_container(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "missing" / "app.log")
    writer = log.open_pipe()
    os.write(writer, b"x")
    os.close(writer)
    log.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_pipe_that_is_still_written_to_does_not_hold_up_closing(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "app.log")
    writer = log.open_pipe()
    log.close()
    os.close(writer)
    assert not (tmp_path / "app.log").exists()
