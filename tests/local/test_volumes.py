from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import pytest

from troth.errors import InputError
from troth.local.env import EnvironmentSources
from troth.local.volumes import mount_volumes
from troth.manifests.workloads import (
    ConfigMap,
    Container,
    PodTemplate,
    Secret,
    Volume,
    VolumeKind,
    VolumeMount,
)

if TYPE_CHECKING:
    from pathlib import Path

    from troth.local.launch import Bind

WORLD = EnvironmentSources(
    config_maps={
        "finance/settings": ConfigMap(
            namespace="finance",
            name="settings",
            data={"a.conf": "a", "b.conf": "b"},
            binary_data={"raw": b"\xff"},
        )
    },
    secrets={"finance/login": Secret(namespace="finance", name="login", data={"key": b"k"})},
)
SETTINGS = Volume(name="v", kind=VolumeKind.CONFIG_MAP, source="settings")


def mounted(
    directory: Path,
    volume: Volume,
    world: EnvironmentSources = WORLD,
    path: str = "/data",
    **mount: Any,
) -> list[Bind]:
    mounts = (VolumeMount(name="v", mount_path=path, **mount),)
    container = Container(name="app", volume_mounts=mounts)
    template = PodTemplate(namespace="finance", name="web", volumes=(volume,))
    return mount_volumes(container, template, world, directory)


def content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_config_map_is_a_read_only_directory_of_its_keys(tmp_path: Path) -> None:
    (bind,) = mounted(tmp_path, SETTINGS)
    assert bind == {
        "source": str(tmp_path / "v"),
        "inside": "",
        "target": "/data",
        "read_only": True,
        "own": True,
    }
    assert content(tmp_path / "v") == {"a.conf": b"a", "b.conf": b"b", "raw": b"\xff"}


def test_a_secrets_files_may_be_read_by_all_users_of_a_container(tmp_path: Path) -> None:
    mounted(tmp_path, Volume(name="v", kind=VolumeKind.SECRET, source="login"))
    assert content(tmp_path / "v") == {"key": b"k"}
    assert stat.S_IMODE((tmp_path / "v/key").stat().st_mode) == 0o644


def test_items_choose_and_rename_keys(tmp_path: Path) -> None:
    volume = Volume(
        name="v",
        kind=VolumeKind.CONFIG_MAP,
        source="settings",
        items={"a.conf": "deep/er/x", "raw": "deep/y"},
    )
    mounted(tmp_path, volume)
    assert content(tmp_path / "v") == {"deep/er/x": b"a", "deep/y": b"\xff"}


def test_a_change_shows_in_the_same_directory(tmp_path: Path) -> None:
    mounted(tmp_path, SETTINGS)
    before = (tmp_path / "v").stat().st_ino
    changed = ConfigMap(namespace="finance", name="settings", data={"b.conf": "new"})
    mounted(tmp_path, SETTINGS, EnvironmentSources(config_maps={"finance/settings": changed}))
    assert content(tmp_path / "v") == {"b.conf": b"new"}
    assert (tmp_path / "v").stat().st_ino == before


def test_one_key_can_be_mounted_as_a_file(tmp_path: Path) -> None:
    (bind,) = mounted(tmp_path, SETTINGS, path="/etc/a.conf", sub_path="a.conf")
    assert (bind["source"], bind["inside"]) == (str(tmp_path / "v"), "a.conf")
    assert bind["target"] == "/etc/a.conf"


def test_an_empty_dir_keeps_what_is_in_it_and_is_writable(tmp_path: Path) -> None:
    volume = Volume(name="v", kind=VolumeKind.EMPTY_DIR)
    (bind,) = mounted(tmp_path, volume)
    (tmp_path / "v/kept").write_text("x")
    mounted(tmp_path, volume, sub_path="sub")
    assert not bind["read_only"]
    assert content(tmp_path / "v") == {"kept": b"x"}
    assert (tmp_path / "v/sub").is_dir()


@pytest.mark.parametrize("read_only", [True, False])
def test_a_host_path_is_mounted_as_it_is(tmp_path: Path, *, read_only: bool) -> None:
    volume = Volume(name="v", kind=VolumeKind.HOST_PATH, source=str(tmp_path))
    (bind,) = mounted(tmp_path / "state", volume, read_only=read_only)
    assert bind == {
        "source": str(tmp_path),
        "inside": "",
        "target": "/data",
        "read_only": read_only,
        "own": False,
    }
    assert not (tmp_path / "state").exists()


def test_a_kind_that_a_local_pod_cannot_have_is_left_out(tmp_path: Path) -> None:
    volume = Volume(name="v", kind=VolumeKind.OTHER, source="persistentVolumeClaim")
    assert mounted(tmp_path, volume) == []


@pytest.mark.parametrize("kind", [VolumeKind.CONFIG_MAP, VolumeKind.SECRET])
def test_an_optional_volume_that_is_missing_is_empty(tmp_path: Path, kind: VolumeKind) -> None:
    mounted(tmp_path, Volume(name="v", kind=kind, source="none", optional=True))
    assert content(tmp_path / "v") == {}


def test_an_empty_dir_is_everybodys_until_an_app_makes_it_its_own(tmp_path: Path) -> None:
    volume = Volume(name="v", kind=VolumeKind.EMPTY_DIR)
    for path, sub_path in ((tmp_path / "v", ""), (tmp_path / "v/a/b", "a/b")):
        mounted(tmp_path, volume, sub_path=sub_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o777
        path.chmod(0o700)
        mounted(tmp_path, volume, sub_path=sub_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("target", ["/etc", "..", "../../..", "/proc/self/cwd", "inside", "gone"])
def test_a_link_in_a_volume_is_not_followed(tmp_path: Path, target: str) -> None:
    volume = Volume(name="v", kind=VolumeKind.EMPTY_DIR)
    mounted(tmp_path, volume, sub_path="inside")
    (tmp_path / "v/link").symlink_to(target)
    for sub_path in ("link", "link/x", "link/x/y"):
        with pytest.raises(InputError, match=f"subPath '{sub_path}' goes by a symbolic link of"):
            mounted(tmp_path, volume, sub_path=sub_path)
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == ["inside", "link"]
    assert list((tmp_path / "v/inside").iterdir()) == []


@pytest.mark.parametrize(
    ("volume", "mount", "found"),
    [
        pytest.param(
            Volume(name="v", kind=VolumeKind.CONFIG_MAP, source="none"),
            {},
            "there is no ConfigMap 'none'",
            id="no ConfigMap",
        ),
        pytest.param(
            Volume(name="v", kind=VolumeKind.SECRET, source="settings"),
            {},
            "there is no Secret 'settings'",
            id="a ConfigMap is no Secret",
        ),
        pytest.param(
            Volume(name="v", kind=VolumeKind.SECRET, source="login", items={"no": "x"}),
            {},
            "Secret 'login' has no key 'no'",
            id="no such key",
        ),
        pytest.param(SETTINGS, {"sub_path": "no"}, "volume 'v' has no 'no'", id="no such file"),
        pytest.param(
            SETTINGS,
            {"path": "//"},
            "mountPath '//' would replace the whole file system",
            id="root",
        ),
        pytest.param(
            Volume(name="v", kind=VolumeKind.HOST_PATH, source="/no/such"),
            {},
            "volume 'v' has no '/no/such'",
            id="no such host path",
        ),
    ],
)
def test_what_a_volume_refers_to_must_be_there(
    tmp_path: Path, volume: Volume, mount: dict[str, Any], found: str
) -> None:
    with pytest.raises(InputError) as refused:
        mounted(tmp_path, volume, **mount)
    assert str(refused.value) == (
        f"Pod finance/web: spec.containers[app].volumeMounts[0]: {found}; "
        "create it, correct the reference, or mark the volume optional"
    )
