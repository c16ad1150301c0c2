"""Somebody who installs troth as docs/install.md says."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.harness import TROTH
from tests.rig import programs

if TYPE_CHECKING:
    from tests.rig.any_cluster import AnyCluster

REPOSITORY = Path(__file__).parents[2]


def commands(heading: str, *, page: str = "install.md", language: str = "console") -> list[str]:
    """What is typed in a section's consoles, or what its code of another language says."""
    text = (REPOSITORY / "docs" / page).read_text()
    (section,) = [part for part in text.split("\n## ") if part.startswith(f"{heading}\n")]
    blocks = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    lines = [line for each in blocks for line in each.splitlines()]
    if language != "console":
        return lines
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


class Person:
    """Somebody who types what the page says, as the cluster's administrator."""

    def __init__(self, cluster: AnyCluster) -> None:
        plane = cluster.control_plane
        folders = (plane.binaries, programs.find("helm"), Path(TROTH).parent)
        path = ":".join((*map(str, folders), os.environ["PATH"]))
        kubeconfig = str(plane.kubeconfig(outside=True))
        self._environment = {**os.environ, "PATH": path, "KUBECONFIG": kubeconfig}

    def follow(self, heading: str, *, page: str = "install.md", code: int = 0) -> str:
        """Type all of a section; what that says."""
        typed = commands(heading, page=page)
        assert typed, heading
        return "".join(self.type(command, code=code) for command in typed)

    def type(self, command: str, *, code: int = 0) -> str:
        """Type one command that is to succeed, or to end with another code; what it says."""
        done = subprocess.run(
            ["timeout", "100", "bash", "-c", command],
            cwd=REPOSITORY,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, (command, done.stdout, done.stderr)
        return done.stdout

    def root(self) -> str:
        """The fingerprint of the only root that is believed."""
        (root,) = json.loads(self.type("troth ca status -o json"))["roots"]
        assert root["signs"]
        return str(root["fingerprint"])
