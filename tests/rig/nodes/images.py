"""The images that pods on real nodes are made of; there is no registry."""

from __future__ import annotations

from pathlib import Path

from tests.deploy import image
from tests.rig import oci, programs
from tests.rig.oci import Image, Layer

PAUSE = "troth.test/pause:1"
TROTH = image.NAME
APP = "troth.test/app:1"
"""Debian's Python, and the programs of the end-to-end tests in ``/app``."""

_PROGRAMS = Path(__file__).parents[2] / "e2e" / "programs"


def write(directory: Path) -> Path:
    """Write an archive of all of them, troth's own included.

    Args:
        directory: For the archive, and what it is put together of.
    """
    troth = image.build()
    busybox = programs.find("containerd") / "bin" / "busybox"
    pause = Layer.make(directory / "pause.tar", {"busybox": busybox})
    files = {f"app/{file.name}": file for file in sorted(_PROGRAMS.glob("*.py"))}
    app = Layer.make(directory / "app.tar", files)
    archive = directory / "images.tar"
    oci.write(
        [
            Image(name=PAUSE, layers=(pause,), entrypoint=("/busybox", "sleep", "1000000")),
            Image(name=APP, layers=(troth.layers[0], app)),
            troth,
        ],
        archive,
    )
    return archive
