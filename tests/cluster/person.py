"""Somebody who installs troth as docs/install.md says."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster import programs
from tests.e2e.harness import TROTH

if TYPE_CHECKING:
    from tests.cluster.harness import Cluster

REPOSITORY = Path(__file__).parents[2]


def commands(heading: str, *, language: str = "console") -> list[str]:
    """What is typed in a section's consoles, or what its code of another language says."""
    text = (REPOSITORY / "docs" / "install.md").read_text()
    (section,) = [part for part in text.split("\n## ") if part.startswith(f"{heading}\n")]
    blocks = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return [line.removeprefix("$ ") for each in blocks for line in each.splitlines()]


class Person:
    """Somebody who types what the page says, as the cluster's administrator."""

    def __init__(self, cluster: Cluster) -> None:
        plane = cluster.control_plane
        folders = (plane.binaries, programs.find("helm"), Path(TROTH).parent)
        path = ":".join((*map(str, folders), os.environ["PATH"]))
        kubeconfig = str(plane.kubeconfig(outside=True))
        self._environment = {**os.environ, "PATH": path, "KUBECONFIG": kubeconfig}

    def follow(self, heading: str) -> None:
        """Type all of a section."""
        typed = commands(heading)
        assert typed, heading
        for command in typed:
            self.type(command)

    def type(self, command: str) -> str:
        """Type one command that is to succeed; what it says."""
        done = subprocess.run(
            ["timeout", "100", "bash", "-c", command],
            cwd=REPOSITORY,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def root(self) -> str:
        """The fingerprint of the only root that is believed."""
        (root,) = json.loads(self.type("troth ca status -o json"))["roots"]
        assert root["signs"]
        return str(root["fingerprint"])
