"""The picture in ARCHITECTURE.md holds: pure packages touch nothing, and imports run one way."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import troth

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(troth.__file__).parent
WORLDLY = frozenset(
    {
        *("asyncio", "fcntl", "grpc", "lightkube", "os", "pathlib", "pyroute2", "select", "shutil"),
        *("signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time", "watchfiles"),
    }
)
PURE = ("policy", "identity", "mesh", "explain")
PURE_MODULES = (
    "envoy/build.py",
    "envoy/clusters.py",
    "table.py",
    "fields.py",
    "envoy/delta.py",
    "envoy/snapshot.py",
    "envoy/accesslog.py",
    "envoy/filters.py",
    "envoy/inbound.py",
    "envoy/outbound.py",
    "envoy/limits.py",
    "envoy/tls.py",
    "kube/reflector.py",
    "kube/resource.py",
    "kube/wire.py",
    "reviews/gather.py",
    "reviews/objects.py",
    "reviews/limits.py",
    "cluster/world.py",
    "manifests/collect.py",
    "manifests/amend.py",
    "manifests/yaml.py",
    "traffic/connection.py",
    "traffic/observe.py",
    "traffic/tally.py",
    "handshake/handshake.py",
    "handshake/messages.py",
    "handshake/steps.py",
    "handshake/wire.py",
    "learn/lesson.py",
    "learn/outcome.py",
)
MAY_IMPORT = {
    "policy": "",
    "identity": "",
    "mesh": "policy identity",
    "traffic": "policy identity mesh",
    "kube": "mesh",
    "manifests": "policy mesh kube",
    "cluster": "policy mesh kube manifests",
    "explain": "policy identity mesh traffic manifests cluster",
    "handshake": "identity",
    "envoy": "identity mesh traffic",
    "agent": "policy identity mesh traffic kube cluster envoy",
    "connect": "policy identity mesh traffic handshake envoy agent",
    "control": "policy identity mesh traffic",
    "reviews": "identity mesh traffic kube cluster explain connect",
    "agent/cluster": "identity mesh traffic kube cluster envoy agent reviews",
    "controller": "policy identity mesh kube cluster",
    "local": "policy identity mesh traffic manifests cluster explain envoy agent connect control",
    "check": "mesh kube cluster envoy agent",
    "ask": "policy identity mesh traffic manifests cluster explain connect control reviews check",
    "ui": "policy traffic explain ask",
    "demo": "mesh traffic manifests handshake envoy connect control local",
    "learn": "policy identity mesh traffic manifests explain handshake connect control ask demo",
}
"""Below each package, from the bottom up: what it may import. `cli` is over all of them."""

SLOW = frozenset(
    {"asyncio", "cryptography", "grpc", "httpx2", "lightkube", "structlog", "watchfiles", "yaml"}
)
"""Packages that take as long to import as the answer takes to come."""


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports when it runs, not those for type checking only."""
    pending: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and [a.name for a in node.names] != ["PurePath"]:
            yield node.module or ""
        pending.extend(ast.iter_child_nodes(node))


def modules() -> Iterator[Path]:
    for package in PURE:
        yield from sorted((ROOT / package).glob("*.py"))
    yield from (ROOT / name for name in PURE_MODULES)


@pytest.mark.parametrize("path", list(modules()), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_pure_module_imports_nothing_that_touches_the_world(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imports(path)} & WORLDLY


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    imported = {
        name
        for path in (ROOT / package).glob("*.py")
        for name in map(package_of, imports(path))
        if name
    }
    assert imported <= {package, *MAY_IMPORT[package].split()}


def package_of(module: str) -> str | None:
    """The package of a module of troth's, as its path below `src/troth`."""
    found = None
    path = ROOT
    for name in module.split(".")[1:] if module.startswith("troth.") else ():
        path /= name
        if path.is_dir():
            found = path.relative_to(ROOT).as_posix()
    return found


def test_no_public_class_name_stands_for_two_things() -> None:
    places: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert {name: there for name, there in places.items() if len(there) > 1} == {}


def test_an_import_inside_a_function_says_what_it_saves() -> None:
    silent = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text("utf-8")
        late = {
            number
            for function in ast.walk(ast.parse(text))
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        lines = ["", *text.splitlines()]
        for first in sorted(number for number in late if number - 1 not in late):
            last = next(number for number in range(first, len(lines)) if number + 1 not in late)
            above = lines[first - 1].lstrip().startswith("# ")
            beside = [each.partition("# noqa: PLC0415")[2] for each in lines[first : last + 1]]
            if not (above or any(beside)):
                silent.append(f"{path.relative_to(ROOT)}:{first}")
    assert silent == []


@pytest.mark.parametrize(
    ("command", "most", "slow"),
    [
        ("why", 32, set()),
        ("status", 36, set()),
        ("events", 32, set()),
        ("learn --list", 56, {"yaml"}),  # lessons are YAML
    ],
    ids=str,
)
def test_a_command_that_asks_one_question_loads_little(
    command: str, most: int, slow: set[str], tmp_path: Path
) -> None:
    script = (
        "import sys; from troth.cli.app import run; run(sys.argv[1:]); print(*sorted(sys.modules))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script, *command.split()],
        env=os.environ
        | {"TROTH_STATE_DIR": str(tmp_path / "none"), "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = asked.stdout.splitlines()[-1].split()
    assert {name.partition(".")[0] for name in loaded} & SLOW <= slow
    assert len([name for name in loaded if name.startswith("troth")]) <= most
