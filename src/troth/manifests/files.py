"""Reads manifests from files, directories and standard input.

Helm charts and kustomizations must be rendered first: a warning says so.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from troth.errors import Location, Problem
from troth.manifests.collect import DEFAULT_NAMESPACE, Manifests, collect
from troth.manifests.yaml import read_documents

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from troth.manifests.yaml import Document

STDIN = Path("-")
"""Stands for standard input among paths."""

LARGEST_FILE = 64 * 1024 * 1024
"""Bytes; larger files are refused."""

_STDIN_NAME = "<stdin>"
_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_OF_A_CHART = frozenset({"templates", "charts", "ci"})
_KUSTOMIZATIONS = frozenset({"kustomization.yaml", "kustomization.yml", "Kustomization"})
_ONLY_LISTS = frozenset({"apiVersion", "kind", "metadata", "resources"})
"""Fields of a kustomization that doesn't change the resources it lists."""
_PATCHES = ("patches", "patchesStrategicMerge", "patchesJson6902", "replacements", "configurations")


def load(
    paths: Sequence[Path], stdin: bytes | None = None, *, namespace: str = DEFAULT_NAMESPACE
) -> Manifests:
    """Read manifests once.

    Args:
        paths: Files, directories (all ``*.yaml``, ``*.yml`` and ``*.json`` below them except hidden
            ones), or ``-``. A file on several paths is read once.
        stdin: What ``-`` stands for.
        namespace: The namespace of objects that name none.

    Returns:
        All valid objects, in the paths' order, and the problems of the others.
    """
    return ManifestFiles(paths, stdin, namespace=namespace).load()


class ManifestFiles:
    """Paths to read repeatedly; only files with new content are parsed again."""

    def __init__(
        self,
        paths: Sequence[Path],
        stdin: bytes | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> None:
        self._paths = tuple(paths)
        self._namespace = namespace
        self._stdin = stdin or b""
        self._parsed: dict[str, tuple[bytes, list[Document], list[Problem]]] = {}

    def signature(self) -> tuple[object, ...]:
        """A value that changes when a file changes, appears or disappears; reads no file."""
        files, problems = _find(self._paths)
        return (*(_stamp(file) for file in files), *problems)

    def emptied(self) -> bool:
        """Whether a file has become empty, which may mean that it is about to be written."""
        return any(_is_empty(name) for name, (data, _, _) in self._parsed.items() if data)

    def load(self) -> Manifests:
        """The files' current content."""
        files, problems = _find(self._paths)
        contents: dict[str, bytes] = {}
        for file in files:
            if file == STDIN:
                contents[_STDIN_NAME] = self._stdin
                continue
            try:
                contents[str(file)] = _read(file)
            except FileNotFoundError:
                if file.is_symlink():
                    problems.append(_unreadable(file, "it links to nothing"))
                elif file in self._paths:
                    problems.append(_unreadable(file, "there is no such file or directory"))
            except OSError as error:
                problems.append(_unreadable(file, error.strerror or type(error).__name__))
        problems += self._left_unrendered(contents)
        self._parsed = {name: self._parse(name, data) for name, data in contents.items()}
        for _, _, bad in self._parsed.values():
            problems += bad
        documents = (each for _, good, _ in self._parsed.values() for each in good)
        return collect(documents, problems, namespace=self._namespace)

    def _left_unrendered(self, contents: dict[str, bytes]) -> list[Problem]:
        """Remove from ``contents`` what must be rendered first, and report it."""
        problems: dict[Problem, None] = {}
        kustomizations: dict[Path, Problem] = {}
        for name in [each for each in contents if each != _STDIN_NAME]:
            if name not in contents:
                continue  # another one's patch
            file = Path(name)
            if problem := _chart_of(file):
                del contents[name]
                problems[problem] = None
            elif _is_kustomization(file):
                documents, _ = read_documents(contents.pop(name), name)
                value = documents[0].value if documents else None
                found, patches = _kustomized(file, value, alone=file in self._paths)
                if found:
                    kustomizations[file.parent] = found
                for patch in patches:
                    contents.pop(str(patch), None)
        # A kustomization inside another, such as a component, is the outer one's.
        outer = (
            found
            for folder, found in kustomizations.items()
            if not any(parent in kustomizations for parent in folder.parents)
        )
        return [*problems, *outer]

    def _parse(self, name: str, data: bytes) -> tuple[bytes, list[Document], list[Problem]]:
        known = self._parsed.get(name)
        return known if known and known[0] == data else (data, *read_documents(data, name))


def _find(paths: Iterable[Path]) -> tuple[list[Path], list[Problem]]:
    """All files to read, each once, and the directories that can't be read."""
    problems: list[Problem] = []
    files: dict[str, Path] = {}
    for path in paths:
        found = [path]
        if path != STDIN and path.is_dir():
            found = sorted(_below(path, problems))
            if not found:
                problems.append(_nothing_in(path))
        for file in found:
            files.setdefault(os.path.realpath(file) if file != STDIN else "", file)
    return list(files.values()), problems


def _below(directory: Path, problems: list[Problem]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # removed meanwhile
            reason = error.strerror or type(error).__name__
            problems.append(_unreadable(Path(error.filename), reason))

    for folder, folders, names in os.walk(directory, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(folder, name)
            if file.suffix in _SUFFIXES and not name.startswith("."):
                yield file


def _is_empty(name: str) -> bool:
    try:
        return Path(name).stat().st_size == 0
    except OSError:
        return False


def _stamp(file: Path) -> tuple[object, ...]:
    try:
        status = file.stat()
    except OSError as error:
        return file, error.errno
    return file, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


def _read(file: Path) -> bytes:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would block
        raise OSError(0, "it is not a regular file")
    with file.open("rb") as stream:
        data = stream.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise OSError(0, f"it is larger than {LARGEST_FILE} bytes")
    return data


def _nothing_in(directory: Path) -> Problem:
    """A warning for a directory without manifests, which may be a mistyped path."""
    found = f"has no manifests in it (*{', *'.join(sorted(_SUFFIXES))})"
    return Problem.warning(f"directory {directory}", "", found, "see that it is the one you mean")


def _unreadable(path: Path, reason: str) -> Problem:
    return Problem(
        subject="file",
        path="",
        found=f"can't be read: {reason}",
        wanted="correct the path or its permissions",
        location=Location(str(path), 1),
    )


def _chart_of(file: Path) -> Problem | None:
    """Report a file of a Helm chart, which must be rendered first.

    The problem is the same for all files of a chart, including its subcharts. Definitions of kinds
    (``crds``) are plain manifests.
    """
    root = None
    absolute = file.absolute()
    for depth, folder in enumerate(absolute.parents):
        within = absolute.relative_to(folder).parts
        own = within[0] in _OF_A_CHART if within[1:] else _is_charts_own(file.name)
        if own and (folder / "Chart.yaml").is_file():
            root = file.parents[depth] if depth < len(file.parents) else folder
    if root is None:
        return None
    command = f"helm template {shlex.quote(str(root))}"
    return Problem(
        subject=f"Helm chart {root}",
        path="",
        found="is not rendered, so nothing of it is read",
        wanted=f"give the output of: {command}",
        location=Location(str(root / "Chart.yaml"), 1),
    )


def _is_charts_own(name: str) -> bool:
    return name.startswith("values") or name == "Chart.yaml"


def _is_kustomization(file: Path) -> bool:
    """Whether only kustomize reads files of that name."""
    return file.name in _KUSTOMIZATIONS


def _kustomized(
    file: Path, value: object, *, alone: bool
) -> tuple[Problem | None, frozenset[Path]]:
    """A kustomization's problem, if any, and its files that are patches of others.

    One that only lists files below its directory adds nothing to these, if they are read, too; so
    it is only a problem if it is ``alone``.
    """
    fields = (
        {key: field for key, field in value.items() if field} if isinstance(value, dict) else {}
    )
    folder = file.parent
    patches = frozenset(
        folder / path for field in _PATCHES for path in _paths(fields.get(field, ()))
    )
    elsewhere = any(
        # Not Path.exists, which raises for a name that is too long.
        not os.path.exists(folder / path) or ".." in Path(path).parts  # noqa: PTH110
        for path in _paths(fields.get("resources", ()))
    )
    if fields.get("kind") == "Component" and not alone:
        return None, patches  # a component: it changes the kustomization that lists it
    if fields and not (alone or elsewhere) and fields.keys() <= _ONLY_LISTS:
        return None, patches
    problem = Problem(
        subject=f"kustomization {folder}",
        path="",
        found="is not rendered, so what it adds and changes isn't seen",
        wanted=f"give the output of: kubectl kustomize {shlex.quote(str(folder))}",
        location=Location(str(file), 1),
    )
    return problem, patches


def _paths(entries: object) -> Iterator[str]:
    for entry in entries if isinstance(entries, list) else ():
        path = entry.get("path") if isinstance(entry, dict) else entry
        if isinstance(path, str) and "\n" not in path:
            yield path
