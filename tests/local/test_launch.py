from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from troth.agent.netns import create, inode
from troth.local.container import write_spec
from troth.local.launch import (
    Bind,
    LaunchSpec,
    join_command,
    launch_command,
    open_beneath,
    users,
)
from troth.local.processes import PodNamespaces, Process
from troth.manifests.workloads import CAPABILITIES

if TYPE_CHECKING:
    from tests.conftest import InNode

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TMP, SHM = "/tmp", "/dev/shm"  # noqa: S108 - a container's own
_namespaces: list[PodNamespaces] = []
_libc = ctypes.CDLL(None, use_errno=True)


def make_spec(directory: Path, **fields: Any) -> LaunchSpec:
    netns = directory / "netns"
    if not netns.exists():
        create(netns)
        (directory / "scratch").mkdir()
        _namespaces.append(PodNamespaces(netns, "web"))
    spec = LaunchSpec(
        pod="finance/web",
        container="app",
        netns=str(netns),
        sandbox=_namespaces[-1].pid,
        argv=["true"],
        env={"PATH": PATH},
        cwd="/",
        binds=[],
        hidden=[],
        scratch=str(directory / "scratch"),
        read_only_root=False,
        capabilities=sorted(CAPABILITIES),
        user=0,
        group=0,
        groups=[],
    )
    return {**spec, **fields}  # type: ignore[typeddict-item] # a test's own fields


def bind(source: Path | str, target: str, *, read_only: bool = False, **fields: Any) -> Bind:
    base = Bind(source=str(source), inside="", target=target, read_only=read_only, own=True)
    return {**base, **fields}  # type: ignore[typeddict-item] # as above


def launch(directory: Path, *argv: str, **fields: Any) -> subprocess.CompletedProcess[str]:
    path = directory / "app.json"
    more: dict[str, Any] = {"argv": list(argv)} if argv else {}
    write_spec(path, make_spec(directory, **more | fields))
    log = directory / "output"
    output = os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    process = Process(
        launch_command(path),
        netns=directory / "netns",
        output=output,
        within=_namespaces[-1],
    )
    os.close(output)
    code = asyncio.run(process.wait())
    said = log.read_text()
    return subprocess.CompletedProcess(argv, code, said, said)


def output(directory: Path, *argv: str, **fields: Any) -> str:
    done = launch(directory, *argv, **fields)
    assert done.returncode == 0, done.stderr
    return done.stdout


def it_has_exactly_its_environment(directory: Path) -> None:
    env = {"PATH": PATH, "A": "1", "SECRET": "line\nline 'é'"}
    seen = output(directory, "env", "-0", env=env).rstrip("\0").split("\0")
    assert dict(pair.split("=", 1) for pair in seen) == env


def it_is_in_its_namespaces(directory: Path) -> None:
    assert output(directory, "hostname") == "web\n"
    assert output(directory, "readlink", "/proc/self/ns/net") == (
        f"net:[{inode(directory / 'netns')}]\n"
    )
    for kind in ("mnt", "uts", "ipc", "pid"):
        own = Path(f"/proc/self/ns/{kind}").readlink()
        assert output(directory, "readlink", f"/proc/self/ns/{kind}") != f"{own}\n"


def it_has_the_pods_files(directory: Path) -> None:
    hosts, resolv = directory / "hosts", directory / "resolv.conf"
    hosts.write_text("10.0.0.1 payments\n")
    resolv.write_text("search finance\n")
    real = Path("/etc/hosts").read_text()
    binds = [bind(hosts, "/etc/hosts"), bind(resolv, "/etc/resolv.conf")]
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
        ["nsenter", "--net=/proc/1/ns/net", "true"],
        ["unshare", "--mount", "true"],
    ):
        done = launch(directory, *command)
        assert done.returncode != 0, command
        assert re.search("not permitted|[Pp]ermission denied|superuser", done.stderr), done.stderr


def it_does_not_see_what_is_hidden(directory: Path) -> None:
    state = directory / "state"
    state.mkdir()
    (state / "key.pem").write_text("key")
    volume = state / "volume"
    volume.mkdir()
    (volume / "shown").write_text("yes")
    fields = {"hidden": [str(state)], "binds": [bind(volume, "/shown")]}
    assert output(directory, "ls", "-A", str(state), **fields) == ""
    assert output(directory, "cat", "/shown/shown", **fields) == "yes"
    assert (state / "key.pem").exists()


def it_does_not_see_what_is_hidden_in_a_volume_either(directory: Path) -> None:
    state = directory / "host/run/state"
    state.mkdir(parents=True)
    (state / "key").write_text("secret")
    (directory / "host/file").write_text("shown")
    (directory / "link").symlink_to(directory / "host")
    (directory / "again").mkdir()
    assert (
        _libc.mount(os.fsencode(directory / "host"), os.fsencode(directory / "again"), 0, 4096, 0)
        == 0
    )
    for source, hidden in (
        ("host", "run/state"),
        ("link", "run/state"),
        ("host/run/state", ""),
        ("again", "run/state"),
        ("", "again/run/state"),
    ):
        fields = {
            "binds": [bind(directory / source, "/made/up", read_only=True, own=False)],
            "hidden": [str(state)],
        }
        assert output(directory, "ls", "-A", f"/made/up/{hidden}", **fields) == "", source
        assert output(directory, "ls", "-A", f"{directory}/again/run/state", **fields) == ""
    fields = {
        "binds": [bind(directory / "host", "/made/up", read_only=True, own=False)],
        "hidden": [str(state)],
    }
    assert output(directory, "cat", "/made/up/file", **fields) == "shown"


def a_link_in_a_volume_leads_nowhere(directory: Path) -> None:
    volume, state = directory / "volume", directory / "state"
    (state / "private").mkdir(parents=True)
    (state / "key").write_text("secret")
    (volume / "deep").mkdir(parents=True)
    for name, target in {
        "absolute": str(state),
        "relative": "../state",
        "deep/up": "../../state",
        "root": "/",
        "proc": "/proc/self/root",
        "harmless": "deep",
    }.items():
        (volume / name).symlink_to(target)
        for inside in (name, f"{name}/private", f"./{name}/"):
            done = launch(directory, "ls", "/shown", binds=[bind(volume, "/shown", inside=inside)])
            assert done.returncode == 125, done.stdout
            assert "Too many levels of symbolic links" in done.stderr
    done = launch(directory, binds=[bind(volume, "/shown", inside="../state")])
    assert "Invalid cross-device link" in done.stderr
    assert (
        output(directory, "ls", "/shown", binds=[bind(volume, "/shown", inside="deep")]) == "up\n"
    )


def a_link_that_is_swapped_in_all_the_time_leads_nowhere(directory: Path) -> None:
    volume, state = directory / "volume", directory / "state"
    (volume / "x").mkdir(parents=True)
    (volume / "x/mine").touch()
    state.mkdir()
    (state / "key").touch()
    (volume / "link").symlink_to(state)
    swapper = subprocess.Popen([sys.executable, "-c", SWAP, str(volume)])
    outcomes = set()
    for _ in range(30):
        done = launch(directory, "ls", "/shown", binds=[bind(volume, "/shown", inside="x")])
        outcomes.add(done.stdout.split(":")[-1].strip())
    swapper.kill()
    swapper.wait()
    assert outcomes <= {"mine", "Too many levels of symbolic links", "No such file or directory"}
    assert len(outcomes) > 1, "the swapping was not seen"


SWAP = """
import os, sys
os.chdir(sys.argv[1])
while True:
    for old, new in (("x", "kept"), ("link", "x"), ("x", "link"), ("kept", "x")):
        os.rename(old, new)
"""


def what_was_opened_is_what_is_mounted(directory: Path) -> None:
    (directory / "x").mkdir()
    at = os.open(directory, os.O_PATH)
    opened = open_beneath(at, "x")
    (directory / "x").rename(directory / "kept")
    (directory / "x").symlink_to("/etc")
    assert os.path.samestat(os.fstat(opened), (directory / "kept").stat())
    with pytest.raises(OSError, match="symbolic links"):
        open_beneath(at, "x")
    with pytest.raises(OSError, match="symbolic links"):
        open_beneath(at, "x/made", make=0o755)
    with pytest.raises(OSError, match="cross-device"):
        open_beneath(at, "../x")
    assert not Path("/etc/made").exists()


def it_runs_as_whom_it_is_told(directory: Path) -> None:
    if users() == 1:
        return  # a plain user has none but themselves
    fields: dict[str, Any] = {"user": 1234, "group": 2345, "groups": [3456]}
    assert output(directory, "id", **fields) == "uid=1234 gid=2345 groups=2345,3456\n"
    status = output(directory, "grep", "CapEff", "/proc/self/status", **fields)
    assert status == "CapEff:\t0000000000000000\n"
    volume = directory / "volume"
    volume.mkdir()
    done = launch(directory, "touch", "/v/x", binds=[bind(volume, "/v")], **fields)
    assert "Permission denied" in done.stderr


def what_it_changes_is_its_own(directory: Path) -> None:
    (directory / "file").write_text("the host's")
    home = Path.home()
    places = ["", "/etc", TMP, "/var/lib", "/var/log", "/run", "/opt", str(home)]
    script = " && ".join(f"echo x > {place}/troth-test-was-here" for place in places)
    script += f" && cd {directory} && echo changed > file && cat file && rm file"
    assert output(directory, "sh", "-ec", script) == "changed\n"
    assert (directory / "file").read_text() == "the host's"
    assert not any((Path(place) / "troth-test-was-here").exists() for place in places)
    assert "troth-test-was-here" not in output(directory, "ls", "/", "/etc", TMP)


def with_a_read_only_root_it_changes_nothing_but_its_volumes(directory: Path) -> None:
    volume = directory / "volume"
    volume.mkdir()
    fields: dict[str, Any] = {"binds": [bind(volume, "/made/up")], "read_only_root": True}
    for place in ("/", "/etc", TMP, "/run", str(directory)):
        done = launch(directory, "touch", f"{place}/new", **fields)
        assert "Read-only file system" in done.stderr, place
    output(directory, "touch", "/made/up/new", f"{SHM}/new", **fields)
    assert (volume / "new").exists()


def it_changes_no_setting_of_the_kernels(directory: Path) -> None:
    for setting in ("kernel/core_pattern", "vm/swappiness", "net/ipv4/ip_forward"):
        done = launch(directory, "sh", "-c", f": > /proc/sys/{setting}")
        assert "Read-only file system" in done.stderr, (setting, done.stderr)
    if Path("/proc/sysrq-trigger").exists():
        done = launch(directory, "sh", "-c", ": > /proc/sysrq-trigger")
        assert "Read-only file system" in done.stderr
    assert launch(directory, "cat", "/proc/kcore", "/proc/keys", "/proc/timer_list").stdout in {
        "",
        "cat: /proc/kcore: No such file or directory\n",
    }
    done = launch(directory, "sh", "-c", "mkdir /sys/fs/cgroup/new || mkdir /sys/fs/cgroup/*/new")
    assert "Read-only file system" in done.stderr, done.stderr


def it_has_no_device_of_the_hosts(directory: Path) -> None:
    seen = set(output(directory, "ls", "/dev").split())
    assert seen == {
        *("fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin"),
        *("stdout", "tty", "urandom", "zero"),
    }
    assert output(
        directory, "sh", "-c", "echo x > /dev/null; head -c 1 /dev/zero | od -An -tx1"
    ) == (" 00\n")
    assert output(directory, sys.executable, "-c", "import os; print(os.openpty())") == "(3, 4)\n"


def it_reaches_no_socket_of_the_hosts(directory: Path) -> None:
    path = directory / "service"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        done = launch(directory, sys.executable, "-c", CONNECT, str(path))
        assert "Connection refused" in done.stderr
        output(
            directory, sys.executable, "-c", CONNECT, "/v/service", binds=[bind(directory, "/v")]
        )


CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


def it_sees_no_process_but_the_pods(directory: Path) -> None:
    seen = output(directory, "sh", "-c", "cat /proc/[0-9]*/comm").split()
    assert set(seen) <= {"sleep", "sh", "cat"}
    assert "denied" in launch(directory, "ls", "/proc/1/root/").stderr
    assert "denied" in launch(directory, "cat", "/proc/1/environ").stderr
    launch(directory, "kill", "-9", "1", "-1")
    assert output(directory, "echo", "alive") == "alive\n"


def a_user_namespace_of_its_own_gives_it_nothing(directory: Path) -> None:
    for command in (
        "mount -o remount,rw,bind /proc/sys && echo got",
        "umount /proc/sys && echo got",
        "umount -l /etc/hosts && echo got",
        "mount -t proc proc /mnt && echo got",
        "ip link set eth0 down && echo got",
        "echo x > /proc/sys/kernel/core_pattern && echo got",
    ):
        done = launch(directory, "unshare", "-Urm", "sh", "-c", command)
        assert "got" not in done.stdout, (command, done.stdout)


def its_program_is_not_the_launchers(directory: Path) -> None:
    """CVE-2019-5736: a script whose interpreter is the launcher's own program."""
    volume = directory / "volume"
    volume.mkdir()
    exe = volume / "exe"
    exe.write_text("#!/proc/self/exe\n" + OVERWRITE)
    exe.chmod(0o755)
    done = launch(directory, "/v/exe", binds=[bind(volume, "/v")])
    assert done.stdout == "read-only: 1\n"


OVERWRITE = """
import os
print("read-only:", os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY)
"""


def others_join_it(directory: Path) -> None:
    path = directory / "app.json"
    note = Path("/tmp/note")  # noqa: S108 - the container's own, where any user may write
    script = f"echo private > {note}; echo up > /v/up; exec sleep infinity"
    volume = directory / "volume"
    volume.mkdir()
    argv = ["sh", "-c", script]
    write_spec(path, make_spec(directory, argv=argv, binds=[bind(volume, "/v")]))
    with Path(os.devnull).open("w") as null:
        process = Process(
            launch_command(path),
            netns=directory / "netns",
            output=null.fileno(),
            within=_namespaces[-1],
        )
    while not (volume / "up").exists():
        time.sleep(0.01)

    def join(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(join_command(path, argv), capture_output=True, text=True, check=False)

    assert join("cat", str(note)).stdout == "private\n"
    assert not note.exists()
    assert join("sh", "-c", "exit 7").returncode == 7
    assert join("sh", "-c", "kill -9 $$").returncode == 128 + signal.SIGKILL
    assert join("nosuch").returncode == 127
    assert "sleep" in join("sh", "-c", "cat /proc/[0-9]*/comm").stdout
    status = join("grep", "-E", "^(CapEff|NoNewPrivs)", "/proc/self/status").stdout
    assert status.split() == ["CapEff:", "00000000a00405fb", "NoNewPrivs:", "1"]
    assert join("ls", "/proc/self/fd").stdout.split() == [
        "0",
        "1",
        "2",
        "3",
    ]  # the last is ls's own
    process.kill()
    asyncio.run(process.wait())
    done = join("true")
    assert (done.returncode, done.stderr) == (
        125,
        "troth: pod finance/web, container app: the container is not running\n",
    )


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
        binds = [bind(volume, target)]
        assert output(directory, "cat", f"{target}/key", binds=binds) == "value"
        assert not Path(target).exists()
    binds = [
        bind(volume, "/one/deeper"),
        bind(volume, "/one/other"),
        bind(volume, "/two"),
        bind(volume / "key", "/etc/app.conf"),
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
        binds = [bind(volume, "/data", read_only=read_only)]
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
            {"binds": [bind("/nosuch", "/mnt")]},
            125,
            "cannot mount /nosuch at /mnt: No such file or directory",
        ),
        (
            {"binds": [bind("/usr", "/dev/null/x")]},
            125,
            "cannot mount /usr at /dev/null/x: File exists",
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
    it_does_not_see_what_is_hidden,
    it_does_not_see_what_is_hidden_in_a_volume_either,
    a_link_in_a_volume_leads_nowhere,
    a_link_that_is_swapped_in_all_the_time_leads_nowhere,
    what_was_opened_is_what_is_mounted,
    it_runs_as_whom_it_is_told,
    what_it_changes_is_its_own,
    with_a_read_only_root_it_changes_nothing_but_its_volumes,
    it_changes_no_setting_of_the_kernels,
    it_has_no_device_of_the_hosts,
    it_reaches_no_socket_of_the_hosts,
    it_sees_no_process_but_the_pods,
    a_user_namespace_of_its_own_gives_it_nothing,
    its_program_is_not_the_launchers,
    others_join_it,
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
