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
    "_table.py",
    "envoy/delta.py",
    "envoy/snapshot.py",
    "envoy/events.py",
    "envoy/filters.py",
    "envoy/inbound.py",
    "envoy/internal_outbound.py",
    "envoy/limits.py",
    "envoy/matchers.py",
    "envoy/outbound.py",
    "envoy/overflow.py",
    "envoy/tls.py",
    "kube/decoding.py",
    "kube/reflector.py",
    "kube/resource.py",
    "kube/wire.py",
    "reviews/gather.py",
    "reviews/objects.py",
    "reviews/queue.py",
    "reviews/scope.py",
    "sources/cluster_keeper.py",
    "sources/collect.py",
    "sources/last_good.py",
    "sources/yaml.py",
    "trace/handshake.py",
    "trace/steps.py",
    "trace/wire.py",
)
MAY_IMPORT = {
    "policy": frozenset[str](),
    "identity": frozenset[str](),
    "mesh": frozenset({"policy", "identity"}),
    "kube": frozenset({"mesh"}),
    "sources": frozenset({"policy", "identity", "mesh", "kube"}),
    "explain": frozenset({"policy", "identity", "mesh", "sources"}),
    "trace": frozenset({"policy", "identity", "mesh"}),
    "envoy": frozenset({"policy", "identity", "mesh"}),
    "node": frozenset({"policy", "identity", "mesh", "envoy", "kube", "sources"}),
    "controller": frozenset({"policy", "identity", "mesh", "kube", "sources"}),
    "cluster": frozenset(
        {"policy", "identity", "mesh", "kube", "sources", "envoy", "node", "reviews"}
    ),
    "reviews": frozenset(
        {
            "policy",
            "identity",
            "mesh",
            "kube",
            "sources",
            "explain",
            "trace",
            "envoy",
            "node",
            "dial",
        }
    ),
    "check": frozenset({"policy", "identity", "mesh", "kube", "sources", "envoy", "node"}),
    "dial": frozenset({"policy", "identity", "mesh", "explain", "trace", "envoy", "node"}),
    "control": frozenset({"policy", "identity", "mesh", "dial"}),
    "local": frozenset(
        {
            "control",
            "policy",
            "identity",
            "mesh",
            "kube",
            "sources",
            "explain",
            "trace",
            "envoy",
            "node",
            "dial",
        }
    ),
    "diagnosis": frozenset(
        {"policy", "identity", "mesh", "envoy", "explain", "trace", "dial", "control", "local"}
    ),
    "demo": frozenset(
        {
            *("policy", "identity", "mesh", "envoy", "kube", "sources", "trace", "dial", "control"),
            "local",
        }
    ),
}


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
        name.split(".")[1]
        for path in (ROOT / package).glob("*.py")
        for name in imports(path)
        if name.startswith("troth.") and not name.startswith(("troth._", "troth.errors"))
    }
    assert imported <= MAY_IMPORT[package] | {package}


@pytest.mark.parametrize(
    ("command", "most"), [("why", 32), ("status", 40), ("events", 32)], ids=str
)
def test_a_command_that_asks_one_question_loads_little(
    command: str, most: int, tmp_path: Path
) -> None:
    script = (
        "import sys; from troth.cli.app import run; run(sys.argv[1:]); print(*sorted(sys.modules))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script, command],
        env=os.environ | {"TROTH_STATE_DIR": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = asked.stdout.split()
    assert not {name.partition(".")[0] for name in loaded} & SLOW
    assert len([name for name in loaded if name.startswith("troth")]) <= most
