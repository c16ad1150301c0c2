"""Puts the CNI plugin on the node, keeps it there, and takes it away.

Whose configuration comes first in the folder is what the container runtime goes by. troth's comes
first: it says the same as the one that would be first without it, with troth's plugin behind the
others. So no file of another program is changed, and when another program rewrites its own,
there is no moment without the plugin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import structlog

from troth.agent.cluster.mesh_file import write_file
from troth.agent.cluster.settings import PLUGIN
from troth.errors import EnvironmentLackError, TrothError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from troth.agent.cluster.settings import CniFolders

_log = structlog.get_logger(__name__)

CONFIGURATION = "0-troth.conflist"
"""Sorts before what other programs have, such as ``00-multus.conf`` and ``05-cilium.conflist``."""

_KINDS = frozenset({".conf", ".conflist", ".json"})
"""What the container runtime takes for a configuration."""

_PROGRAMS = "node.cni.programs (--cni-programs) to where the container runtime looks for plugins"
_NETWORKS = (
    "node.cni.configurations (--cni-configurations) to the folder that the container runtime reads"
)

_LARGEST = 1024 * 1024
_OLD = ("0.1.0", "0.2.0")
_LOOK_SECONDS = 10.0

_REWRITE_SECONDS = 1.0
"""A file that is gone, or can't be read, may be one that is just being written."""


class CniFiles:
    """The plugin's files on a node.

    Args:
        folders: Where.
        socket: The agent's.
        on_change: Called when `trouble` or `is_installed` has changed.

    Attributes:
        is_installed: Whether the plugin is in use, as far as files can tell; None until they have
            been looked at.
        trouble: Why it isn't; empty when all is well.
    """

    def __init__(self, folders: CniFolders, *, socket: Path, on_change: Callable[[], None]) -> None:
        self.is_installed: bool | None = None
        self.trouble = ""
        self._folders = folders
        self._entry = {
            "type": PLUGIN,
            "socket": str(socket),
            "state": str(folders.state),
            "exempt": list(folders.exempt),
        }
        self._on_change = on_change
        self._writing = threading.Lock()
        self._is_wanted = False

    async def run(self) -> None:
        """Keep them as they should be until cancelled, or until they are removed."""
        self._is_wanted = True
        async with contextlib.aclosing(_changes(self._folders)) as changes:
            async for _ in changes:
                try:
                    self._note(await asyncio.to_thread(self._keep), "")
                except (TrothError, OSError) as error:
                    self._note(False, f"the CNI plugin can't be installed: {error}")

    def _keep(self) -> bool:
        with self._writing:  # a thread outlives the task that waits for it
            return self._is_wanted and self.put()

    def put(self) -> bool:
        """Write what isn't as it should be; whether the plugin is in use.

        Raises:
            EnvironmentLackError: There is nothing that it can be chained behind, or the node's
                folders can't be written to.
            OSError: The image is without it, or the folders can't be read.
        """
        folders = self._folders
        program = folders.program.read_bytes()
        if _read(folders.programs / PLUGIN, len(program)) != program:
            _write(folders.programs / PLUGIN, program, 0o755, value=_PROGRAMS)
            _log.info("put the CNI plugin on the node", path=str(folders.programs / PLUGIN))
        ours = folders.configurations / CONFIGURATION
        try:
            try:
                wanted = self._wanted()
            except EnvironmentLackError:
                time.sleep(_REWRITE_SECONDS)
                wanted = self._wanted()
        except EnvironmentLackError:
            ours.unlink(missing_ok=True)  # without the others it would be no network
            raise
        if wanted is None:
            ours.unlink(missing_ok=True)
            return True
        if _read(ours, _LARGEST) != wanted:
            _write(ours, wanted, 0o600, value=_NETWORKS)
            _log.info("put the CNI plugin into the node's configuration", path=str(ours))
        return True

    def remove(self) -> None:
        """Take them away; what isn't there is no error.

        Raises:
            OSError: They can't be taken away.
        """
        folders = self._folders
        with self._writing:
            self._is_wanted = False
            for path in (
                folders.configurations / CONFIGURATION,  # before the program that it names
                folders.programs / PLUGIN,
                folders.state,
            ):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folders.state.parent.rmdir()
        _log.info("took the CNI plugin away")

    def _wanted(self) -> bytes | None:
        """The configuration; None if somebody has chained the plugin by hand."""
        folder = self._folders.configurations
        for path, configuration in _configurations(folder):
            if path.name < CONFIGURATION:
                raise EnvironmentLackError(
                    f"{path} sorts before {CONFIGURATION}", "give it another name"
                )
            if any(each["type"] == PLUGIN for each in configuration["plugins"]):
                return None
            return chained(path, configuration, self._entry)
        raise EnvironmentLackError(
            f"there is no configuration of a network in {folder}",
            f"install the cluster's network, or set {_NETWORKS}",
        )

    def _note(self, is_installed: bool, trouble: str) -> None:  # noqa: FBT001 - what is noted
        if (is_installed, trouble) == (self.is_installed, self.trouble):
            return
        if trouble:
            _log.error("pods start before they are captured", reason=trouble)
        self.is_installed, self.trouble = is_installed, trouble
        self._on_change()


def chained(path: Path, configuration: dict[str, Any], entry: dict[str, Any]) -> bytes:
    """A network's configuration with one more plugin behind the others.

    Args:
        path: Whose it is, for messages.
        configuration: A list of plugins (``.conflist``).
        entry: The plugin's.

    Raises:
        EnvironmentLackError: It can't be chained there.
    """
    if configuration.get("cniVersion", _OLD[0]) in _OLD:
        raise EnvironmentLackError(
            f"{path} is of a CNI version in which plugins can't be chained",
            "have it say cniVersion 0.3.1 or later",
        )
    if any(each["type"].startswith("multus") for each in configuration["plugins"]):
        raise EnvironmentLackError(
            f"{path} is Multus's, which makes it of whatever comes first in the folder",
            f"chain {PLUGIN} by hand in the configuration that Multus delegates to",
        )
    changed = {**configuration, "plugins": [*configuration["plugins"], entry]}
    return json.dumps(changed, indent=2).encode() + b"\n"


def _configurations(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The readable ones of others, in the container runtime's order, all as lists of plugins."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix not in _KINDS or path.name == CONFIGURATION:
            continue
        try:
            content = json.loads(_read(path, _LARGEST) or b"")
        except ValueError:
            continue
        if not isinstance(content, dict) or not isinstance(content.get("name"), str):
            continue
        if path.suffix != ".conflist":
            own = ("cniVersion", "name")
            content = {**{key: content[key] for key in own if key in content}, "plugins": [content]}
        plugins = content.get("plugins")
        if isinstance(plugins, list) and plugins and all(map(_is_plugin, plugins)):
            yield path, content


def _write(path: Path, content: bytes, mode: int, *, value: str) -> None:
    try:
        write_file(path, content, mode)
    except OSError as error:
        raise EnvironmentLackError(
            f"{path.parent} can't be written to ({error.strerror})", f"set {value}"
        ) from error


def _is_plugin(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("type"), str) and bool(value["type"])


def _read(path: Path, most: int) -> bytes | None:
    """A file's content if there is such a file and it isn't larger."""
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError:
        return None
    return content if len(content) <= most else None


async def _changes(folders: CniFolders) -> Any:
    """Once at once, then whenever something in the folders changes, and from time to time."""
    from watchfiles import awatch  # noqa: PLC0415 - agents without the plugin don't need it

    yield None
    while True:
        watched = [path for path in (folders.configurations, folders.programs) if path.is_dir()]
        if not watched:
            await asyncio.sleep(_LOOK_SECONDS)
            yield None
            continue
        async with contextlib.aclosing(
            awatch(
                *watched,
                watch_filter=None,
                debounce=50,
                step=10,
                recursive=False,
                rust_timeout=int(_LOOK_SECONDS * 1000),
                yield_on_timeout=True,
            )
        ) as happening:
            async for _ in happening:
                yield None
