"""Makes troth's image as the Dockerfile says, without a container engine and a registry.

``python -m tests.deploy.image [FILE]`` writes it as an OCI archive. What the Dockerfile runs is run
word for word, each line in a root file system of its own that shows what the lines before it made;
only where it takes its base from differs: that is Debian's Python here, of this machine's release,
and what is installed by apt-get is unpacked into the base. The stage with Go is left to
``scripts/cni``. What is made of the same lines and files is kept in the cache.

It needs Debian's apt-get and dpkg-deb, the network for the first time, and user namespaces if root
doesn't run it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.rig import oci, programs
from tests.rig.oci import Image, Layer

import troth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

REPOSITORY = Path(__file__).parents[2]
NAME = f"docker.io/library/troth:{troth.__version__}"

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "troth" / "image"
_KEPT = 8
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INSTALL = re.compile(
    r"apt-get update && apt-get install -y --no-install-recommends ([a-z0-9 -]+?)"
    r" && rm -rf /var/lib/apt/lists/\*"
)

# What python:slim has, and the build needs.
_BASE = ("base-files", "ca-certificates", "libstdc++6", "python3", "python-is-python3")
_BUILD = (*_BASE, "python3-pip")

# $1 root, $2 overlay's options, $3 folder in the root; then the command. The machine's own names
# and certificates lead to the package index.
_RUN = """
set -e
mount -t overlay -o "$2" overlay "$1"
mkdir -p "$1/proc" "$1/dev" "$1/etc/ssl/certs" "$1$3"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
for each in /etc/resolv.conf /etc/hosts /etc/pip.conf; do
  if [ -e "$each" ]; then touch "$1$each"; mount --bind "$each" "$1$each"; fi
done
mount --bind /etc/ssl/certs "$1/etc/ssl/certs"
root=$1 folder=$3
shift 3
exec chroot "$root" sh -ec 'cd "$0" && exec "$@"' "$folder" "$@"
"""

# $1 root, $2 overlay's options, $3 archive, $4 what is to be in it.
_PACK = """
set -e
mount -t overlay -o "$2" overlay "$1"
exec tar --create --file="$3" --directory="$1" --sort=name --owner=0 --group=0 --numeric-owner "$4"
"""


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, and what follows each."""
    text = (REPOSITORY / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (words[0], words[1]) for line in joined.splitlines() if (words := line.split(maxsplit=1))
    ]


def build() -> Image:
    """Troth's image; its layers stay in the cache for a while.

    Raises:
        ValueError: The Dockerfile has something that isn't understood.
        OSError: Something needed is missing, or a command of the Dockerfile failed.
    """
    first, last = _stages()
    with _locked_cache():
        built = _Stage(programs.find("debian-root", "image-build", *_BUILD))
        for name, words in first:
            built.follow(name, words)
        image = _Stage(base())
        layers = [image.layer(".")]
        for name, words in last:
            if name == "COPY":
                layers.append(_copied(built, words))
            else:
                image.follow(name, words)
        _forget_the_oldest()
    return Image(
        name=NAME,
        layers=tuple(layers),
        environment=tuple(f"{key}={value}" for key, value in image.environment.items()),
        user=image.user,
        entrypoint=image.entrypoint,
    )


def base() -> Path:
    """A folder with Debian's Python, what the Dockerfile installs, and what these need."""
    return programs.find("debian-root", "image", *_BASE, *packages())


def packages() -> list[str]:
    """What the Dockerfile installs by apt-get."""
    _, last = _stages()
    found = [_INSTALL.fullmatch(words) for name, words in last if name == "RUN"]
    return [package for match in found if match for package in match[1].split()]


def _stages() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    stages: list[list[tuple[str, str]]] = []
    for name, words in instructions():
        if name == "FROM":
            stages.append([])
        elif stages:
            stages[-1].append((name, words))
    _, first, last = stages
    return first, last


def _copied(stage: _Stage, words: str) -> Layer:
    """The layer that ``COPY --from`` makes."""
    option, source, target = words.split()
    if option == "--from=cni":
        program = programs.find("cni") / "troth-cni"
        return Layer.make(_CACHE / f"{program.parent.name}.tar", {target.lstrip("/"): program})
    if option != "--from=build" or source != target:
        raise ValueError(f"Dockerfile: COPY {words}: only --from=build, to the same path")
    return stage.layer(target.lstrip("/"))


class _Stage:
    """A stage of the Dockerfile: what its lines say, and the layers that come of it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._steps: list[_Step] = []
        self._folder = "/"
        self.environment = {"PATH": _PATH}
        self.user = ""
        self.entrypoint: tuple[str, ...] = ()

    def follow(self, name: str, words: str) -> None:
        """Do as a line says, as far as that is to be done at once."""
        if name == "WORKDIR":
            self._folder = words
        elif name == "COPY":
            *sources, target = words.split()
            self._copy([REPOSITORY / source for source in sources], target)
        elif name == "RUN" and not _INSTALL.fullmatch(words):
            self._run(words)
        elif name == "ENV":
            for each in shlex.split(words):
                key, _, value = each.partition("=")
                self.environment[key] = re.sub(r"\$(\w+)", self._variable, value)
        elif name == "USER":
            self.user = words
        elif name == "ENTRYPOINT":
            self.entrypoint = tuple(re.findall(r'"([^"]*)"', words))
        elif name != "RUN":
            raise ValueError(f"Dockerfile: {name} {words}: not understood")

    def layer(self, path: str) -> Layer:
        """A layer of all that is at a path when every line was followed."""
        with _made(f"{self._key(len(self._steps))} layer {path}") as (folder, new):
            if new:
                with tempfile.TemporaryDirectory(dir=programs.MEMORY) as scratch:
                    lowers = self._make(Path(scratch))
                    # There are two at least, as overlayfs wants it without an upper one.
                    (empty := Path(scratch) / "empty").mkdir()
                    options = f"lowerdir={':'.join(map(str, [empty, *lowers]))}"
                    _in_namespaces(_PACK, options, str(new / "layer.tar"), path)
        return Layer.of(folder / "layer.tar")

    def _variable(self, match: re.Match[str]) -> str:
        return self.environment[match[1]]

    def _key(self, steps: int) -> str:
        return " ".join([self._root.name, *(step.key for step in self._steps[:steps])])

    def _make(self, scratch: Path) -> list[Path]:
        """Make all layers, in a folder apart from those that are kept; the uppermost first."""
        lowers = [self._root]
        for number, step in enumerate(self._steps, 1):
            if step.kept:
                with _made(self._key(number)) as (folder, new):
                    if new:
                        step.make(lowers, new)
            else:
                folder = scratch / str(number)
                folder.mkdir()
                step.make(lowers, folder)
            lowers.insert(0, folder / "root")
        return lowers

    def _copy(self, sources: list[Path], target: str) -> None:
        whole = len(sources) == 1 and sources[0].is_dir()
        files = {
            str(file.relative_to(sources[0]) if whole else file.name): file
            for source in sources
            for file in _files(source)
        }
        digest = hashlib.sha256()
        for name, file in files.items():
            content = file.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
        inside = Path(self._folder.lstrip("/"), target)

        def make(_: list[Path], folder: Path) -> None:
            for name, file in files.items():
                copy = folder / "root" / inside / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)

        self._steps.append(_Step(f"COPY {inside} {digest.hexdigest()}", make))

    def _run(self, command: str) -> None:
        given = {
            key: value
            for key, value in os.environ.items()
            if key.startswith("PIP_") or key.lower().endswith("_proxy")
        }
        environment = {"HOME": "/root", **given, **self.environment}
        line = [f"{key}={value}" for key, value in environment.items()]
        argv = ("env", "-i", *line, "sh", "-ec", command)
        start = self._folder

        def make(lowers: list[Path], folder: Path) -> None:
            upper, work = folder / "root", folder / "work"
            upper.mkdir()
            work.mkdir()
            below = ":".join(map(str, lowers))
            options = f"lowerdir={below},upperdir={upper},workdir={work}"
            _in_namespaces(_RUN, options, start, *argv)

        self._steps.append(_Step(f"RUN {start} {command}", make, kept="pip download" in command))


class _Step(NamedTuple):
    """A line that changes the stage's root.

    Attributes:
        key: What it depends on, besides the lines before it.
        make: Makes the folder ``root`` in a folder, of layers below it.
        kept: Whether that stays in the cache.
    """

    key: str
    make: Callable[[list[Path], Path], None]
    kept: bool = False


def _files(source: Path) -> list[Path]:
    """What the Dockerfile's COPY copies of a file or folder, with .dockerignore."""
    if source.is_file():
        return [source]
    found = sorted(source.rglob("*"))
    return [file for file in found if file.is_file() and "__pycache__" not in file.parts]


def _in_namespaces(script: str, *arguments: str) -> None:
    mapped = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    spaces = (*mapped, "--mount", "--pid", "--fork", "--kill-child")
    with tempfile.TemporaryDirectory() as root:
        command = ["unshare", *spaces, "--", "sh", "-c", script, "sh", root, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"this failed: {arguments[-1]}\n{done.stdout}{done.stderr}")


@contextlib.contextmanager
def _locked_cache() -> Iterator[None]:
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _made(key: str) -> Iterator[tuple[Path, Path | None]]:
    """Where the cache keeps something, and the folder to make it in if it has yet to be made."""
    folder = _CACHE / hashlib.sha256(key.encode()).hexdigest()[:16]
    if folder.exists():
        os.utime(folder)
        yield folder, None
        return
    new = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=_CACHE))
    try:
        yield folder, new
        new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _forget_the_oldest() -> None:
    kept = [each for each in _CACHE.iterdir() if each.is_dir()]
    for folder in sorted(kept, key=lambda each: each.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Mapping[int, str]) -> None:
    """Write the image."""
    file = Path(arguments.get(1, REPOSITORY / "dist" / "troth.tar"))
    file.parent.mkdir(exist_ok=True)
    oci.write([build()], file)
    sys.stdout.write(f"{NAME} is in {file}\n")


if __name__ == "__main__":
    main(dict(enumerate(sys.argv)))
