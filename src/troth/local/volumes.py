"""A pod's volumes as directories on disk, ready to be mounted into its containers."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from troth.errors import InputError, Problem
from troth.local.launch import Bind, open_beneath, users
from troth.manifests.workloads import VolumeKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.local.env import EnvironmentSources
    from troth.manifests.workloads import Container, PodTemplate, Volume, VolumeMount

_EVERYBODYS = 0o777
"""An emptyDir's mode, as the kubelet has it: a container's processes may have several users."""

_READABLE = 0o644
"""``defaultMode``: all users of a container may read it. None of the host's can get there."""

_MAPS = {VolumeKind.CONFIG_MAP: "ConfigMap", VolumeKind.SECRET: "Secret"}


def mount_volumes(
    container: Container, template: PodTemplate, world: EnvironmentSources, directory: Path
) -> list[Bind]:
    """Brings the volumes of a container up to date and says what is to appear where.

    A ConfigMap or Secret is always read-only, as in Kubernetes. A volume of a kind that a local
    pod cannot have is left out; `troth.manifests.runnable.runnable_problems` warns of it.

    Args:
        container: Whose ``volumeMounts`` these are.
        template: The pod's, with the volumes.
        world: Where ConfigMaps and Secrets are.
        directory: Keeps the pod's volumes from one container to the next.

    Raises:
        InputError: A ConfigMap, Secret or path that is not optional is missing; all are listed.
    """
    volumes = {volume.name: volume for volume in template.volumes}
    problems: list[Problem] = []
    binds: list[Bind] = []
    for index, mount in enumerate(container.volume_mounts):
        volume = volumes.get(mount.name)
        if volume is None or volume.kind is VolumeKind.OTHER:
            continue
        try:
            source = _source(volume, mount, template, world, directory / volume.name)
        except _UnusableError as error:
            problems.append(
                Problem(
                    subject=str(template),
                    path=f"spec.containers[{container.name}].volumeMounts[{index}]",
                    found=str(error),
                    wanted="create it, correct the reference, or mark the volume optional",
                )
            )
            continue
        read_only = mount.read_only or volume.kind in _MAPS
        target = os.path.normpath("/" + mount.mount_path.lstrip("/"))
        binds.append(
            Bind(
                source=str(source),
                inside=mount.sub_path,
                target=target,
                read_only=read_only,
                own=volume.kind is not VolumeKind.HOST_PATH,
            )
        )
    if problems:
        raise InputError(problems)
    return binds


def writable_path(path: str) -> Bind:
    """What the user lets containers change of the host's files, where they see it anyway."""
    return Bind(source=path, inside="", target=path, read_only=False, own=False)


class _UnusableError(Exception):
    """What a mount asks for is not there, or cannot be had."""


def _source(
    volume: Volume,
    mount: VolumeMount,
    template: PodTemplate,
    world: EnvironmentSources,
    directory: Path,
) -> Path:
    fs_group = template.security.fs_group
    if not mount.mount_path.strip("/."):
        raise _UnusableError(f"mountPath {mount.mount_path!r} would replace the whole file system")
    if volume.kind is VolumeKind.HOST_PATH:
        root = Path(volume.source)
    else:
        root = directory
        is_new = not root.exists()
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        if is_new and volume.kind is VolumeKind.EMPTY_DIR:
            root.chmod(_EVERYBODYS)
        if volume.kind in _MAPS:
            _write_files(root, _files(volume, template.namespace, world))
        if fs_group is not None and users() > 1:
            os.chown(root, -1, fs_group)
            root.chmod(stat.S_IMODE(root.stat().st_mode) | 0o2770)
    _look(root, mount.sub_path, volume)
    return root


def _look(root: Path, sub_path: str, volume: Volume) -> None:
    """See that what is to be mounted is there; an app may change that until the launcher looks."""
    make = _EVERYBODYS if volume.kind is VolumeKind.EMPTY_DIR else None
    try:
        directory = os.open(root, os.O_PATH | os.O_CLOEXEC)
        try:
            os.close(open_beneath(directory, sub_path, make=make))
        finally:
            os.close(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        found = f"volume {volume.name!r} has no {sub_path or volume.source!r}"
        raise _UnusableError(found) from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EXDEV):
            raise
        found = f"subPath {sub_path!r} goes by a symbolic link of volume {volume.name!r}"
        raise _UnusableError(found) from error


def _files(volume: Volume, namespace: str, world: EnvironmentSources) -> dict[str, bytes]:
    """The content of a ConfigMap's or Secret's volume by relative path."""
    content = _content(volume, f"{namespace}/{volume.source}", world)
    if content is None:
        if volume.optional:
            return {}
        raise _UnusableError(f"there is no {_MAPS[volume.kind]} {volume.source!r}")
    if not volume.items:
        return dict(content)
    missing = sorted(volume.items.keys() - content.keys())
    if missing and not volume.optional:
        raise _UnusableError(f"{_MAPS[volume.kind]} {volume.source!r} has no key {missing[0]!r}")
    return {path: content[key] for key, path in volume.items.items() if key in content}


def _content(volume: Volume, key: str, world: EnvironmentSources) -> Mapping[str, bytes] | None:
    if volume.kind is VolumeKind.SECRET:
        secret = world.secrets.get(key)
        return None if secret is None else secret.data
    config_map = world.config_maps.get(key)
    if config_map is None:
        return None
    return {k: v.encode() for k, v in config_map.data.items()} | dict(config_map.binary_data)


def _write_files(root: Path, files: Mapping[str, bytes]) -> None:
    """Makes ``root`` hold exactly ``files``, each replaced at once; containers see it live."""
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = target.with_name(f"..{target.name}.new")  # no key starts with two dots
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), _READABLE)
        new.replace(target)
    wanted = {root / path for path in files}
    kept = wanted.union(*(path.parents for path in wanted))
    for entry in sorted(root.rglob("*")):
        if entry in kept or not entry.exists():
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
