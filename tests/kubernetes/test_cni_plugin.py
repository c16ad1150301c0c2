"""The CNI plugin by itself, as a runtime calls it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.rig.programs import find

pytestmark = pytest.mark.cluster

SOURCES = Path(__file__).parents[2] / "cni"
GO = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/local/go/bin", "GOFLAGS": "-mod=readonly"}


@pytest.mark.parametrize("words", [("vet", "./..."), ("test", "./...")], ids=" ".join)
def test_its_own_tests_pass(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["go", *words], cwd=SOURCES, env=GO, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_sources_have_go_s_format() -> None:
    done = subprocess.run(
        ["gofmt", "-l", "."], cwd=SOURCES, env=GO, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""


def test_it_is_one_static_program_that_knows_its_versions() -> None:
    program = find("cni") / "troth-cni"
    done = subprocess.run(
        [program], env={"CNI_COMMAND": "VERSION"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (
        '{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}'
    )
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    assert "not a dynamic executable" in linked.stderr
