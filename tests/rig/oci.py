"""Container images as OCI image layouts in an archive, as `ctr images import` and skopeo take them.

See the OCI Image Format Specification, "Image Layout" and "Image Configuration". Layers are not
compressed, since nothing sends them anywhere.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


class Layer(msgspec.Struct, frozen=True):
    """A layer of an image: a tar archive.

    Attributes:
        file: Where it is.
        digest: The SHA-256 of it, in hexadecimal digits.
    """

    file: Path
    digest: str

    @classmethod
    def of(cls, file: Path) -> Layer:
        """The layer in a file."""
        with file.open("rb") as content:
            return cls(file, hashlib.file_digest(content, "sha256").hexdigest())

    @classmethod
    def make(cls, file: Path, contents: Mapping[str, Path]) -> Layer:
        """Make a layer of single files, which all may run.

        Args:
            file: Where to write it.
            contents: The files, by their paths in the image.
        """
        with tarfile.open(file, "w") as archive:
            for name, source in contents.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = source.stat().st_size, 0o755
                with source.open("rb") as content:
                    archive.addfile(entry, content)
        return cls.of(file)


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image for the machine's own architecture.

    Attributes:
        name: Its full reference, ``docker.io/library/NAME:TAG`` for ``NAME:TAG``.
        layers: From the lowest to the uppermost.
        environment: ``NAME=VALUE``, each.
        user: Who its programs run as, as in a Dockerfile.
        entrypoint: The command line's beginning.
    """

    name: str
    layers: tuple[Layer, ...]
    environment: tuple[str, ...] = ()
    user: str = ""
    entrypoint: tuple[str, ...] = ()

    def config(self) -> bytes:
        """Its configuration."""
        run = {"Env": self.environment, "User": self.user, "Entrypoint": self.entrypoint}
        diffs = [f"sha256:{layer.digest}" for layer in self.layers]
        return msgspec.json.encode(
            {
                "architecture": _architecture(),
                "os": "linux",
                "config": {key: value for key, value in run.items() if value},
                "rootfs": {"type": "layers", "diff_ids": diffs},
            }
        )


def write(images: Iterable[Image], file: Path) -> None:
    """Write an archive of images, whose common layers are in it once."""
    written: set[str] = set()
    manifests = []
    with tarfile.open(file, "w") as archive:

        def blob(kind: str, content: bytes) -> dict[str, Any]:
            digest = hashlib.sha256(content).hexdigest()
            _add(archive, f"blobs/sha256/{digest}", content)
            return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

        _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        for image in images:
            layers = []
            for layer in image.layers:
                if layer.digest not in written:
                    archive.add(layer.file, f"blobs/sha256/{layer.digest}")
                    written.add(layer.digest)
                size = layer.file.stat().st_size
                layers.append(
                    {"mediaType": _LAYER, "digest": f"sha256:{layer.digest}", "size": size}
                )
            manifest = {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": blob(_CONFIG, image.config()),
                "layers": layers,
            }
            names = {
                "io.containerd.image.name": image.name,
                "org.opencontainers.image.ref.name": image.name.rpartition(":")[2],
            }
            manifests.append(
                blob(_MANIFEST, msgspec.json.encode(manifest)) | {"annotations": names}
            )
        index = {"schemaVersion": 2, "manifests": manifests}
        _add(archive, "index.json", msgspec.json.encode(index))


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
