"""A local mesh's files: one directory, 0700, removed by `troth down`."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.errors import EnvironmentLackError, InputError, Problem
from troth.identity.spiffe import DEFAULT_TRUST_DOMAIN
from troth.mesh.world import DEFAULT_ROOT_NAMESPACE
from troth.sockets import KEEPALIVE_SECONDS, ListenAddress

if TYPE_CHECKING:
    from collections.abc import Collection

_MARKER = "this-is-a-troth-state-directory"
_LONGEST_SOCKET_PATH = 107  # bytes; sun_path of unix(7), less its final zero


class AuthorityFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate authority given as PEM files, as in Istio's ``cacerts``.

    Attributes:
        certificate: The signing certificate, a root or an intermediate.
        key: Its private key.
        chain: The certificates between it and the root; empty if there are none.
        root: The trust anchor; empty if ``certificate`` is one.
    """

    certificate: str
    key: str
    chain: str = ""
    root: str = ""


class ContainerOverride(msgspec.Struct, frozen=True, kw_only=True):
    """What a container runs instead of what its manifest says.

    Attributes:
        namespace: Of its workload.
        workload: The name of its workload, or of its bare pod.
        container: Its name; empty for the first one.
        command: Empty for the manifest's.
        args: None for the manifest's.
        env: Variables to add or to replace.
        working_dir: Empty for the manifest's.
    """

    namespace: str
    workload: str
    container: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] | None = None
    env: Mapping[str, str] = {}
    working_dir: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.namespace, self.workload, self.container)))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `troth up`.

    Attributes:
        paths: Absolute paths of manifest files and directories.
        root_namespace: Where mesh-wide policies live.
        trust_domain: The trust domain of every identity.
        certificate_lifetime_seconds: The lifetime of a workload's certificate.
        authority: The certificate authority to use instead of one generated for this run.
        uplink: Whether there is a link to the host (only as root).
        metrics: Where Prometheus may scrape the agent; None for nowhere.
        pod_connections: The maximum number of open connections of each kind per pod; None for the
            default.
        writable: Absolute paths of the host that containers may change.
        keepalive_seconds: The time within which a vanished peer is detected.
        claims: An absolute path where persistent volume claims outlive the mesh; empty if they
            don't.
        overrides: What containers run instead of what their manifests say; later ones win.
    """

    paths: tuple[str, ...]
    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    certificate_lifetime_seconds: int = 12 * 3600
    authority: AuthorityFiles | None = None
    uplink: bool = False
    metrics: ListenAddress | None = None
    pod_connections: int | None = None
    writable: tuple[str, ...] = ()
    keepalive_seconds: int = KEEPALIVE_SECONDS
    claims: str = ""
    overrides: tuple[ContainerOverride, ...] = ()


class StateDirectory:
    """The files of one local mesh; at most one mesh runs per directory.

    Args:
        path: The directory; the default is ``$TROTH_STATE_DIR``, else one of the user's own.

    Raises:
        InputError: It exists and is another user's, open to others, or not a directory. Its content
            (which process to stop, which to query) could not be trusted.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = (path or _default_path()).absolute()
        self.settings = self.path / "settings.json"
        self.lock = self.path / "lock"
        self.pid = self.path / "pid"
        self.uplink = self.path / "uplink.json"
        self.log = self.path / "troth.log"
        self.control = self.path / "control.sock"
        self.ads = self.path / "ads.sock"
        self.admin = self.path / "envoy-admin.sock"
        self.worker = self.path / "envoy-worker"
        self.bootstrap = self.path / "envoy.json"
        self.access_log = self.path / "access-log.fifo"
        self.journal = self.path / "events"
        self.netns = self.path / "netns"
        self.pods = self.path / "pods"
        self.claims = self.path / "claims"
        self._check_owner()

    def prepare(self) -> None:
        """Create the directory, or check that it is private to this user.

        Raises:
            InputError: It is another user's, open to others, or contains foreign files.
        """
        longest = len(os.fsencode(self.admin))
        if longest > _LONGEST_SOCKET_PATH:
            raise self._problem(
                f"too long for Unix sockets in it ({longest} bytes)",
                f"use a path at least {longest - _LONGEST_SOCKET_PATH} bytes shorter",
            )
        try:
            self.path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            pass  # its owner is checked below
        except OSError as error:
            raise self._problem(
                f"cannot be made: {error.strerror}", "name a place of your own in TROTH_STATE_DIR"
            ) from error
        self._check_owner()
        marker = self.path / _MARKER
        if not marker.exists():
            if any(self.path.iterdir()):
                raise self._problem("holds files that are not troth's", "name an empty directory")
            marker.touch(mode=0o600)

    def try_lock(self) -> int | None:
        """Take the lock of a running mesh; return its file descriptor, or None if it is held."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def clear(self) -> None:
        """Remove what a mesh left here, except the events, which the next one continues.

        Call it only with the lock held.
        """
        self._remove_all_but({_MARKER, self.lock.name, self.journal.name})

    def remove(self) -> None:
        """Remove the directory with its content; call it only with the lock held."""
        self._remove_all_but({_MARKER, self.lock.name})
        (self.path / _MARKER).unlink(missing_ok=True)
        self.lock.unlink(missing_ok=True)
        self.path.rmdir()

    def _remove_all_but(self, keep: Collection[str]) -> None:
        for entry in self.path.iterdir():
            if entry.name in keep:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def read_settings(self) -> Settings:
        """The options that the mesh of this directory was started with."""
        return msgspec.json.decode(self.settings.read_bytes(), type=Settings)

    def write_private(self, path: Path, content: bytes) -> None:
        """Write a file that is 0600 from the moment it exists."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)

    def _check_owner(self) -> None:
        try:
            status = self.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return  # nothing there to distrust
        except OSError as error:
            raise self._problem(
                f"cannot be looked at: {error.strerror}", "use one of your own"
            ) from error
        if not stat.S_ISDIR(status.st_mode):
            raise self._problem("not a directory (or a link to one)", "name a directory")
        if status.st_uid != os.geteuid():
            raise self._problem(f"belongs to user {status.st_uid}", "use one of your own")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise self._problem(
                f"is open to others (mode {stat.S_IMODE(status.st_mode):o})", "make it 0700"
            )

    def _problem(self, found: str, wanted: str) -> InputError:
        return InputError(
            [Problem(subject=f"state directory {self.path}", path="", found=found, wanted=wanted)]
        )


def _default_path() -> Path:
    if given := os.environ.get("TROTH_STATE_DIR"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/run/troth")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        candidate = Path(runtime)
        if candidate.is_dir() and os.access(candidate, os.W_OK):
            return candidate / "troth"
    home = Path(tempfile.gettempdir())
    if not os.access(home, os.W_OK):
        raise EnvironmentLackError(f"cannot write to {home}", "set TROTH_STATE_DIR")
    return home / f"troth-{os.geteuid()}"
