"""The archives of images are as the OCI Image Format Specification has them."""

from __future__ import annotations

import hashlib
import json
import tarfile
from typing import TYPE_CHECKING

from tests.rig import oci
from tests.rig.oci import Image, Layer

if TYPE_CHECKING:
    from pathlib import Path


def test_everything_in_an_archive_is_found_by_its_digest_and_is_there_once(tmp_path: Path) -> None:
    source = tmp_path / "program"
    source.write_text("#!/bin/sh\n")
    common = Layer.make(tmp_path / "common.tar", {"bin/program": source})
    other = Layer.make(tmp_path / "other.tar", {"bin/other": source})
    oci.write(
        [
            Image(name="example.test/one:1", layers=(common,), user="1:1", entrypoint=("program",)),
            Image(name="example.test/two:2", layers=(common, other)),
        ],
        tmp_path / "archive.tar",
    )

    with tarfile.open(tmp_path / "archive.tar") as archive:
        names = archive.getnames()
        contents = {
            name: file.read() for name in names if (file := archive.extractfile(name)) is not None
        }
    assert len(names) == len(set(names))
    blobs = {
        f"sha256:{name.rpartition('/')[2]}": content
        for name, content in contents.items()
        if name.startswith("blobs/")
    }
    assert [key for key, content in blobs.items() if key != digest(content)] == []
    one, two = json.loads(contents["index.json"])["manifests"]
    assert one["annotations"]["io.containerd.image.name"] == "example.test/one:1"
    layers = [each["digest"] for each in json.loads(blobs[two["digest"]])["layers"]]
    assert layers == [f"sha256:{common.digest}", f"sha256:{other.digest}"]
    config = json.loads(blobs[json.loads(blobs[one["digest"]])["config"]["digest"]])
    assert config["config"] == {"User": "1:1", "Entrypoint": ["program"]}
    assert config["rootfs"]["diff_ids"] == [f"sha256:{common.digest}"]


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
