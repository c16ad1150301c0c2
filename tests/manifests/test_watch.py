"""Every wait here is for a condition; the tests' timeout ends what never comes."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from troth.manifests import watch as watching
from troth.manifests.amend import merge_last_good
from troth.manifests.watch import watch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from troth.manifests.collect import Manifests


def account(name: str) -> str:
    return f"{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}}}}}\n"


def write(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("---\n".join(map(account, names)))
    return path


def names(manifests: Manifests) -> set[str]:
    return {key.removeprefix("default/") for key in manifests.service_accounts}


async def until(
    values: AsyncGenerator[Manifests, None], condition: Callable[[Manifests], bool]
) -> Manifests:
    async for manifests in values:
        if condition(manifests):
            return manifests
    raise AssertionError("the watch ended")


def _has(expected: set[str], manifests: Manifests) -> bool:
    return names(manifests) == expected


async def follow(paths: Sequence[Path], *steps: tuple[Callable[[], object], set[str]]) -> Manifests:
    """Take each step and wait until the watch says what is expected after it."""
    async with aclosing(watch(paths)) as values:
        manifests = await anext(values)
        for step, expected in steps:
            step()
            manifests = await until(values, partial(_has, expected))
    return manifests


async def test_the_first_value_comes_at_once(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "a")
    async with aclosing(watch([tmp_path])) as values:
        assert names(await anext(values)) == {"a"}


async def test_files_come_change_and_go(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", "a")
    await follow(
        [tmp_path],
        (lambda: write(tmp_path / "b.yaml", "b"), {"a", "b"}),
        (lambda: write(a, "c"), {"b", "c"}),
        (a.unlink, {"b"}),
    )


async def test_a_file_that_is_about_to_be_written_is_not_read_empty(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", "a")
    async with aclosing(watch([tmp_path])) as values:
        await anext(values)
        following = asyncio.ensure_future(anext(values))
        with a.open("w") as slowly:
            await asyncio.wait({following}, timeout=0.1)
            slowly.write(account("b"))
        assert names(await following) == {"b"}


async def test_a_directory_that_appears_is_followed(tmp_path: Path) -> None:
    new = tmp_path / "new" / "below"
    await follow(
        [tmp_path],
        (lambda: write(new / "a.yaml", "a"), {"a"}),
        (lambda: write(new / "b.yaml", "b"), {"a", "b"}),
        (lambda: shutil.rmtree(new), set()),
    )


@pytest.mark.parametrize("path", ["", "a.yaml"], ids=["directory", "file"])
async def test_a_file_may_be_replaced_by_renaming(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_POLL_SECONDS", 3600)  # the system's reports are enough
    a = write(tmp_path / "a.yaml", "a")
    await follow(
        [tmp_path / path],
        (lambda: write(tmp_path / ".new", "b").replace(a), {"b"}),
        (lambda: write(tmp_path / ".new", "c").replace(a), {"c"}),
        (lambda: write(a, "d"), {"d"}),
    )


async def test_a_path_may_appear_later(tmp_path: Path) -> None:
    late = tmp_path / "late"
    async with aclosing(watch([late])) as values:
        assert (await anext(values)).unread == {str(late)}
        write(late / "a.yaml", "a")
        manifests = await until(values, lambda each: names(each) == {"a"})
        assert manifests.problems == ()


async def test_a_directory_may_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_POLL_SECONDS", 3600)  # the new directory itself is watched
    live, new = tmp_path / "live", tmp_path / "new"
    write(live / "a.yaml", "a")
    write(new / "b.yaml", "b")

    def swap() -> None:
        live.rename(tmp_path / "old")
        new.rename(live)

    await follow([live], (swap, {"b"}), (lambda: write(live / "c.yaml", "c"), {"b", "c"}))


async def test_a_mounted_config_map_may_be_updated(tmp_path: Path) -> None:
    write(tmp_path / "..1" / "a.yaml", "a")
    write(tmp_path / "..2" / "a.yaml", "b")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")

    def swap() -> None:
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").replace(tmp_path / "..data")

    await follow([tmp_path], (swap, {"b"}))


async def test_what_was_good_stays_while_its_file_is_broken(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", "a")
    async with aclosing(watch([tmp_path])) as values:
        await anext(values)
        a.write_text("a: [")
        manifests = await until(values, lambda each: bool(each.problems))
        assert names(manifests) == {"a"}
        write(a, "b")
        manifests = await until(values, lambda each: not each.problems)
        assert names(manifests) == {"b"}


async def test_what_was_good_stays_while_its_named_file_is_missing(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", "a")
    async with aclosing(watch([a])) as values:
        await anext(values)
        a.unlink()
        manifests = await until(values, lambda each: bool(each.problems))
        assert names(manifests) == {"a"}


async def test_a_change_that_says_the_same_is_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = asyncio.Event()

    def merge(previous: Manifests, current: Manifests) -> Manifests:
        seen.set()
        return merge_last_good(previous, current)

    monkeypatch.setattr(watching, "merge_last_good", merge)
    a = write(tmp_path / "a.yaml", "a")
    async with aclosing(watch([tmp_path])) as values:
        await anext(values)
        news = asyncio.ensure_future(anext(values))
        a.write_text(a.read_text() + "# a comment\n")
        await seen.wait()
        write(tmp_path / "b.yaml", "b")
        assert names(await news) == {"a", "b"}


async def test_changes_are_seen_without_the_operating_systems_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: object, **__: object) -> object:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(watching, "awatch", unavailable)
    await follow([tmp_path], (lambda: write(tmp_path / "a.yaml", "a"), {"a"}))
