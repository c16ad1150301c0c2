from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from troth.errors import Severity
from troth.sources import STDIN, load, read_documents
from troth.sources import _files as files

if TYPE_CHECKING:
    from troth.errors import Problem
    from troth.sources import Document


def account(name: str) -> str:
    return f"{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}}}}}\n"


def write(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(account(name))
    return path


def names(*paths: Path, stdin: bytes | None = None) -> list[str]:
    manifests = load(paths, stdin)
    assert manifests.problems == ()
    return [key.removeprefix("default/") for key in manifests.service_accounts]


def test_a_directory_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    write(tmp_path / "b.yml", "b")
    write(tmp_path / "c" / "a.json", "ca")
    write(tmp_path / "a.yaml", "a")
    write(tmp_path / "c.yaml", "c")
    assert names(tmp_path) == ["a", "b", "ca", "c"]


@pytest.mark.parametrize("name", [".hidden.yaml", ".git/a.yaml", "a.txt", "a.yaml~", "a.yaml.swp"])
def test_other_and_hidden_files_are_left_alone(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, "a")
    write(tmp_path / "b.yaml", "b")
    assert names(tmp_path) == ["b"]


def test_a_directory_without_manifests_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (problem,) = load([tmp_path]).problems
    assert problem.severity is Severity.WARNING
    assert "has no manifests in it" in problem.found


def test_a_named_file_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    assert names(write(tmp_path / ".manifest", "a")) == ["a"]


def test_paths_keep_their_order(tmp_path: Path) -> None:
    b, a = write(tmp_path / "b.yaml", "b"), write(tmp_path / "a.yaml", "a")
    assert names(b, a) == ["b", "a"]


def test_a_file_is_read_once_however_it_is_reached(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", "a")
    (tmp_path / "link.yaml").symlink_to(a)
    assert names(a, tmp_path, tmp_path / "link.yaml") == ["a"]


def test_a_mounted_config_map_is_read(tmp_path: Path) -> None:
    write(tmp_path / "..2026" / "a.yaml", "a")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert names(tmp_path) == ["a"]


def test_a_circle_of_directories_ends(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "a")
    (tmp_path / "circle").symlink_to(tmp_path)
    assert names(tmp_path) == ["a"]


def test_a_dash_is_standard_input(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", "a")
    assert names(a, STDIN, stdin=account("in").encode()) == ["a", "in"]


def test_problems_of_standard_input_say_so() -> None:
    (problem,) = load([STDIN], b"a: [").problems
    assert str(problem.location) == "<stdin>:1"


def test_a_missing_path_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    manifests = load([path, write(tmp_path / "a.yaml", "a")])
    assert list(manifests.service_accounts) == ["default/a"]
    assert list(map(str, manifests.problems)) == [
        (
            f"{path}:1: file: can't be read: there is no such file or directory; "
            "correct the path or its permissions"
        )
    ]
    assert manifests.unread == {str(path)}


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    (problem,) = load([tmp_path]).problems
    assert problem.found == "can't be read: it is no regular file"


def test_a_dangling_link_in_a_directory_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("none")
    (problem,) = load([tmp_path]).problems
    assert problem.found == "can't be read: it links to nothing"


def test_a_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST_FILE", 10)
    write(tmp_path / "a.yaml", "a")
    (problem,) = load([tmp_path]).problems
    assert problem.found == "can't be read: it is larger than 10 bytes"


def test_only_files_with_new_content_are_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def counting(data: bytes | str, file: str) -> tuple[list[Document], list[Problem]]:
        parsed.append(Path(file).name)
        return read_documents(data, file)

    monkeypatch.setattr(files, "read_documents", counting)
    write(tmp_path / "a.yaml", "a")
    write(tmp_path / "b.yaml", "b")
    manifests = files.ManifestFiles([tmp_path])
    first = manifests.load()
    assert manifests.load() == first
    write(tmp_path / "b.yaml", "new")
    assert list(manifests.load().service_accounts) == ["default/a", "default/new"]
    assert parsed == ["a.yaml", "b.yaml", "b.yaml"]
