from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from troth.local._container import write_spec
from troth.local._launch import Bind, LaunchSpec, launch_command
from troth.node import _netns

if TYPE_CHECKING:
    from tests.conftest import InNode

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def make_spec(directory: Path, **fields: Any) -> LaunchSpec:
    netns = directory / "netns"
    if not netns.exists():
        _netns.create(netns)
        (directory / "scratch").mkdir()
    spec = LaunchSpec(
        pod="finance/web",
        container="app",
        netns=str(netns),
        hostname="web",
        argv=["true"],
        env={"PATH": PATH},
        cwd="/",
        binds=[],
        hidden=[],
        scratch=str(directory / "scratch"),
        privileged=False,
    )
    return {**spec, **fields}  # type: ignore[typeddict-item] # a test's own fields


def launch(directory: Path, *argv: str, **fields: Any) -> subprocess.CompletedProcess[str]:
    path = directory / "app.json"
    write_spec(path, make_spec(directory, **fields))
    override = ["--", *argv] if argv else []
    return subprocess.run(
        [*launch_command(path), *override], capture_output=True, text=True, check=False
    )


def output(directory: Path, *argv: str, **fields: Any) -> str:
    done = launch(directory, *argv, **fields)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def it_has_exactly_its_environment(directory: Path) -> None:
    env = {"PATH": PATH, "A": "1", "SECRET": "line\nline 'é'"}
    seen = output(directory, "env", "-0", env=env).rstrip("\0").split("\0")
    assert dict(pair.split("=", 1) for pair in seen) == env


def it_is_in_its_namespaces(directory: Path) -> None:
    assert output(directory, "hostname") == "web\n"
    assert output(directory, "readlink", "/proc/self/ns/net") == (
        f"net:[{_netns.inode(directory / 'netns')}]\n"
    )
    for kind in ("mnt", "uts"):
        own = Path(f"/proc/self/ns/{kind}").readlink()
        assert output(directory, "readlink", f"/proc/self/ns/{kind}") != f"{own}\n"


def it_has_the_pods_files(directory: Path) -> None:
    hosts, resolv = directory / "hosts", directory / "resolv.conf"
    hosts.write_text("10.0.0.1 payments\n")
    resolv.write_text("search finance\n")
    real = Path("/etc/hosts").read_text()
    binds = [
        Bind(source=str(hosts), target="/etc/hosts", read_only=False),
        Bind(source=str(resolv), target="/etc/resolv.conf", read_only=False),
    ]
    assert output(directory, "cat", "/etc/hosts", "/etc/resolv.conf", binds=binds) == (
        "10.0.0.1 payments\nsearch finance\n"
    )
    assert Path("/etc/hosts").read_text() == real


def it_has_few_capabilities(directory: Path) -> None:
    status = output(directory, "grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status")
    values = dict(line.split(":\t") for line in status.splitlines())
    assert values == {
        "CapInh": "0000000000000000",
        "CapPrm": "00000000a00405fb",
        "CapEff": "00000000a00405fb",
        "CapBnd": "00000000a00405fb",
        "CapAmb": "0000000000000000",
        "NoNewPrivs": "1",
    }


SET_MARK = "import socket; socket.socket().setsockopt(socket.SOL_SOCKET, 36, 0x539)"


def it_cannot_undo_the_capture(directory: Path) -> None:
    for command in (
        ["nft", "add", "table", "inet", "mine"],
        ["ip", "link", "set", "lo", "down"],
        [sys.executable, "-c", SET_MARK],
        ["umount", "/etc/hosts"],
        ["nsenter", f"--net={directory}/netns", "true"],
        ["unshare", "--mount", "true"],
    ):
        done = launch(directory, *command)
        assert done.returncode != 0, command
        assert re.search("not permitted|[Pp]ermission denied|superuser", done.stderr), done.stderr


def privileged_it_can(directory: Path) -> None:
    output(directory, "nft", "add", "table", "inet", "mine", privileged=True)
    output(directory, sys.executable, "-c", SET_MARK, privileged=True)


def it_does_not_see_what_is_hidden(directory: Path) -> None:
    state = directory / "state"
    state.mkdir()
    (state / "key.pem").write_text("key")
    volume = state / "volume"
    volume.mkdir()
    (volume / "shown").write_text("yes")
    target = directory / "shown"
    target.mkdir()
    fields = {
        "hidden": [str(state)],
        "binds": [Bind(source=str(volume), target=str(target), read_only=False)],
    }
    assert output(directory, "ls", "-A", str(state), **fields) == ""
    assert output(directory, "cat", str(target / "shown"), **fields) == "yes"
    assert (state / "key.pem").exists()


def it_does_not_see_what_is_hidden_in_a_volume_either(directory: Path) -> None:
    state = directory / "host/run/state"
    state.mkdir(parents=True)
    (state / "key").write_text("secret")
    (directory / "host/file").write_text("shown")
    (directory / "link").symlink_to(directory / "host")
    for source, hidden in (("host", "run/state"), ("link", "run/state"), ("host/run/state", "")):
        bind = Bind(source=str(directory / source), target="/made/up", read_only=True)
        fields = {"binds": [bind], "hidden": [str(state)]}
        assert output(directory, "ls", "-A", f"/made/up/{hidden}", **fields) == ""
    bind = Bind(source=str(directory / "host"), target="/made/up", read_only=True)
    fields = {"binds": [bind], "hidden": [str(state)]}
    assert output(directory, "cat", "/made/up/file", **fields) == "shown"


def it_has_default_signals(directory: Path) -> None:
    status = output(directory, "grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status")
    _, blocked, _, ignored = status.split()
    # Those that libc keeps for itself can't be changed by anybody.
    changeable = sum(1 << number - 1 for number in signal.valid_signals())
    assert int(blocked, 16) & changeable == 0
    assert int(ignored, 16) & changeable == 0


def volumes_appear_where_there_was_nothing(directory: Path) -> None:
    volume = directory / "volume"
    volume.mkdir()
    (volume / "key").write_text("value")
    before = sorted(entry.name for entry in Path("/").iterdir())
    etc = set(output(directory, "ls", "-A", "/etc").split())
    for target in ("/config", "/etc/app/conf.d", "/usr/local/deep/er/place", "/run/secrets/x"):
        binds = [Bind(source=str(volume), target=target, read_only=False)]
        assert output(directory, "cat", f"{target}/key", binds=binds) == "value"
        assert not Path(target).exists()
    binds = [
        Bind(source=str(volume), target="/one/deeper", read_only=False),
        Bind(source=str(volume), target="/one/other", read_only=False),
        Bind(source=str(volume), target="/two", read_only=False),
        Bind(source=str(volume / "key"), target="/etc/app.conf", read_only=False),
    ]
    listing = output(directory, "ls", "-A", "/one", "/two", binds=binds)
    assert listing.split() == ["/one:", "deeper", "other", "/two:", "key"]
    assert set(output(directory, "ls", "-A", "/etc", binds=binds).split()) == etc | {"app.conf"}
    seen = set(output(directory, "ls", "-A", "/", binds=binds).split())
    assert seen == {*before, "one", "two"}
    assert sorted(entry.name for entry in Path("/").iterdir()) == before
    assert list((directory / "scratch").iterdir()) == []


def a_read_only_volume_takes_no_writes(directory: Path) -> None:
    volume = directory / "volume"
    volume.mkdir()
    for read_only in (True, False):
        binds = [Bind(source=str(volume), target="/data", read_only=read_only)]
        done = launch(directory, "touch", "/data/new", binds=binds)
        assert (volume / "new").exists() is not read_only
        assert ("Read-only" in done.stderr) is read_only


def failures_are_said(directory: Path) -> None:
    script = directory / "script"
    script.write_text("#!/no/such/interpreter\n")
    prefix = "troth: pod finance/web, container app: "
    rows: list[tuple[dict[str, Any], int, str]] = [
        (
            {"argv": ["nosuch"]},
            127,
            f"cannot run 'nosuch': no such file in PATH {PATH}, or its interpreter is missing",
        ),
        (
            {"argv": ["./nosuch"]},
            127,
            "cannot run './nosuch': no such file, or its interpreter is missing",
        ),
        ({"argv": ["/etc"]}, 126, "cannot run '/etc': Permission denied"),
        ({"env": {"A": "\0"}}, 126, "cannot run 'true': embedded null byte"),
        (
            {"cwd": "/nosuch"},
            125,
            "cannot change to the working directory /nosuch: No such file or directory",
        ),
        (
            {"netns": "/nosuch"},
            125,
            "cannot enter network namespace /nosuch: No such file or directory",
        ),
        ({"netns": "/dev/null"}, 125, "cannot enter network namespace /dev/null: Invalid argument"),
        (
            {"binds": [Bind(source="/nosuch", target="/mnt", read_only=False)]},
            125,
            "cannot mount /nosuch at /mnt: No such file or directory",
        ),
        (
            {"binds": [Bind(source="/usr", target="/dev/null/x", read_only=False)]},
            125,
            "cannot mount /usr at /dev/null/x: Not a directory",
        ),
        ({"hidden": ["/nosuch"]}, 125, "cannot hide /nosuch: No such file or directory"),
    ]
    for fields, code, text in rows:
        done = launch(directory, **fields)
        said = (done.returncode, done.stderr)
        assert said == (code, f"{prefix}{text}\n"), said


SCENARIOS = [
    it_has_exactly_its_environment,
    it_is_in_its_namespaces,
    it_has_the_pods_files,
    it_has_few_capabilities,
    it_cannot_undo_the_capture,
    privileged_it_can,
    it_does_not_see_what_is_hidden,
    it_does_not_see_what_is_hidden_in_a_volume_either,
    it_has_default_signals,
    volumes_appear_where_there_was_nothing,
    a_read_only_volume_takes_no_writes,
    failures_are_said,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_container_process(scenario: Any, in_node_namespace: InNode, tmp_path: Path) -> None:
    in_node_namespace(scenario, tmp_path)


def test_a_launch_spec_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.json"
    path.write_text("an old one that others may read")
    write_spec(path, LaunchSpec(env={"PASSWORD": "x"}))  # type: ignore[typeddict-item] # enough here
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {"env": {"PASSWORD": "x"}}
    assert list(tmp_path.iterdir()) == [path]
