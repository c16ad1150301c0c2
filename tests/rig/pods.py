"""What a container runtime does: a pod's namespaces, its network, and its containers' processes.

Images are ignored: a container's ``command`` runs on the file system that the test runs on, with a
``/run`` of its own. The volumes that it mounts must stand below ``/run`` (``/var/run``), or on a
path that exists.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import uuid
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec
from tests.e2e.harness import eventually
from tests.rig.cgroups import CgroupNames
from tests.rig.machine import Machine, in_cgroups, ip_batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_PAUSE = 'hostname "$1" && ip link set lo up && exec sleep infinity'

# The first process of a PID namespace ignores signals that it has no handler for.
_WAIT = "trap exit TERM; sleep infinity & wait"

# Arguments: pairs of what to mount where, "--", and the container's command.
_SETTING_UP = "setting-up"
_SETUP = (
    "mount -t tmpfs tmpfs /run && mkdir -m 1777 /run/lock || exit 1;"
    ' while [ "$1" != -- ]; do'
    ' if [ -d "$1" ]; then mkdir -p "$2"; else mkdir -p "${2%/*}" && touch "$2"; fi;'
    ' mount --rbind "$1" "$2" || exit 1; shift 2; done; shift; exec "$@"'
)
_READ_ONLY = 'mount -o remount,bind,ro / && exec "$@"'

# What container runtimes leave to a container that is not privileged.
_DEFAULT_CAPABILITIES = frozenset(
    {
        *("audit_write", "chown", "dac_override", "fowner", "fsetid", "kill", "mknod"),
        *("net_bind_service", "net_raw", "setfcap", "setgid", "setpcap", "setuid", "sys_chroot"),
    }
)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where pods run.

    Attributes:
        node: The Node object's name.
        address: The node's address.
        gateway: The node's address to its pods.
        machine: The node's machine.
        cgroup_names: How pods' cgroups are named there.
        api: Host and port of the API server for pods.
    """

    node: str
    address: str
    gateway: str
    machine: Machine
    cgroup_names: CgroupNames
    api: tuple[str, str]


class Sandbox:
    """A pod's namespaces, and its address.

    Args:
        place: The node.
        pod: The Pod object.
        address: The pod's address; the node's if it shares the node's network.
    """

    def __init__(self, place: Place, pod: Mapping[str, Any], address: str) -> None:
        self.place = place
        self.pod = pod
        self.address = address
        self.spec = pod["spec"]
        self.id = uuid.uuid4().hex * 2
        self.uid: str = pod["metadata"]["uid"]
        self.name: str = pod["metadata"]["name"]
        self.qos: str = pod.get("status", {}).get("qosClass", "BestEffort")
        self.directory: Path = place.machine.directory / "pods" / self.uid
        self.directory.mkdir(parents=True)
        self.host_network = bool(self.spec.get("hostNetwork"))
        self.host_pid = bool(self.spec.get("hostPID"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.pid = self._start()
        if not self.host_network:
            self._connect()

    @property
    def netns(self) -> Path:
        """The pod's network namespace, by a path that is good for the test."""
        return Path(f"/proc/{self.pid}/ns/net")

    def new_group(self, container_id: str) -> Path:
        """Make the cgroup of a container."""
        names = self.place.cgroup_names
        return self.place.machine.cgroups.make(names.container(self.uid, self.qos, container_id))

    def close(self) -> None:
        """End everything of the pod."""
        cgroups = self.place.machine.cgroups
        cgroups.remove(self.place.cgroup_names.pod(self.uid, self.qos))
        for process in self._processes:
            process.wait()

    def on_node(self, group: Path, *argv: str) -> list[str]:
        """The command line that runs ``argv`` on the node, in a cgroup."""
        enter = ("nsenter", f"--target={self.place.machine.pid}", "--net", "--mount", "--pid")
        return in_cgroups([group], *enter, "--uts", "--cgroup", "--", *argv)

    def _start(self) -> int:
        group = self.new_group(uuid.uuid4().hex * 2)
        namespaces = ["--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if not self.host_network:
            namespaces.append("--net")
        pause = ("unshare", *namespaces, "--", "sh", "-c", _PAUSE, "sh", self.name)
        process = subprocess.Popen(self.on_node(group, *pause), stdin=subprocess.DEVNULL)
        self._processes.append(process)

        def paused() -> int:
            assert process.poll() is None, f"the sandbox of pod {self.name} could not be made"
            pid = descendant(process.pid, 2)
            return pid if pid and command_line(pid).startswith(b"sleep\0") else 0

        return eventually(paused, what=f"the sandbox of pod {self.name}")

    def _connect(self) -> None:
        link = f"veth{self.uid[:8]}"
        gateway = self.place.gateway
        # A veth pair with host routes at both ends, as the CNI plugin `ptp` makes it: packets
        # between pods of a node pass the node's routing, and so its kube-proxy, too.
        self.place.machine.ip(
            f"link add {link} type veth peer name eth0 netns {self.pid}",
            f"addr add {gateway}/32 dev {link}",
            f"link set {link} up",
            f"route add {self.address}/32 dev {link}",
        )
        ip_batch(
            self.netns,
            [
                f"addr add {self.address}/32 dev eth0",
                "link set eth0 up",
                f"route add {gateway} dev eth0",
                f"route add default via {gateway}",
            ],
        )


class Container:
    """A container's process, started at once.

    Args:
        sandbox: The pod's.
        spec: The container's part of the pod's spec.
        environment: Its variables.
        mounts: What to mount, by where.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        spec: Mapping[str, Any],
        environment: Mapping[str, str],
        mounts: Mapping[str, Path],
    ) -> None:
        self._sandbox = sandbox
        self.id = uuid.uuid4().hex * 2
        self.name: str = spec["name"]
        self._spec = spec
        self._environment = dict(environment)
        self._pid = 0
        group = sandbox.new_group(self.id)
        self._group = os.path.relpath(group, sandbox.place.machine.cgroups.root)
        self.log: Path = sandbox.directory / f"{self.name}.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                sandbox.on_node(group, *self._enter_pod(), *self._setup(mounts), *self._argv()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd="/",
            )

    @property
    def pid(self) -> int:
        """The PID, outside of the node, of the container's first process once it runs, or 0."""
        if self.exit_code is not None:
            return 0
        if not self._pid:
            pid = descendant(self._process.pid, 1 if self._sandbox.host_pid else 2)
            # It has no command line for a moment when it becomes another program.
            command = command_line(pid) if pid else b""
            if command and _SETTING_UP.encode() not in command:
                self._pid = pid
        return self._pid

    @property
    def exit_code(self) -> int | None:
        """How it ended (128 and the number for a signal), or None."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def exec_command(self, *argv: str) -> list[str]:
        """The command line that runs ``argv`` in the container."""
        pid = eventually(
            lambda: self.pid or (-1 if self.exit_code is not None else 0),
            what=f"a process of container {self.name}",
        )
        enter = ("nsenter", f"--target={pid}", "--net", "--mount", "--pid", "--uts")
        group = self._sandbox.place.machine.cgroups.root / self._group
        return in_cgroups([group], *enter, "--cgroup", "--", *self._restricted(), *argv)

    @property
    def environment(self) -> dict[str, str]:
        """Its variables."""
        return dict(self._environment)

    def terminate(self) -> None:
        """Ask its first process to end."""
        if pid := self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """End all its processes."""
        self._sandbox.place.machine.cgroups.remove(self._group)
        self._process.wait()

    def _enter_pod(self) -> Sequence[str]:
        sandbox = self._sandbox
        inside = ["unshare", "--mount"]
        if sandbox.place.machine.cgroups.version == 2:
            # Runtimes give a container a cgroup namespace on the unified hierarchy only.
            inside.append("--cgroup")
        if not sandbox.host_pid:
            inside += ["--pid", "--fork", "--kill-child", "--mount-proc"]
        # The sandbox's PID as the node sees it.
        pid = pid_inside(sandbox.pid, 1)
        return ("nsenter", f"--target={pid}", "--net", "--uts", "--", *inside, "--")

    def _setup(self, mounts: Mapping[str, Path]) -> Sequence[str]:
        pairs: list[str] = []
        for target, source in mounts.items():
            path = PurePosixPath(target)
            below_run = any(path.is_relative_to(run) for run in ("/run", "/var/run"))
            if not below_run and not self._sandbox.place.machine.path(target).exists():
                raise ValueError(f"mount path {target} neither exists nor is below /run")
            pairs += [str(source), target]
        setup = ("sh", "-c", _SETUP, _SETTING_UP, *pairs, "--")
        if self._spec.get("securityContext", {}).get("readOnlyRootFilesystem"):
            return (*setup, "sh", "-c", _READ_ONLY, _SETTING_UP)
        return setup

    def _argv(self) -> Sequence[str]:
        command = self._spec.get("command") or ["sh", "-c", _WAIT]
        return (*self._restricted(), *command, *self._spec.get("args", ()))

    def _restricted(self) -> Sequence[str]:
        """`setpriv` as the security contexts want it."""
        context = {
            **self._sandbox.spec.get("securityContext", {}),
            **self._spec.get("securityContext", {}),
        }
        command = ["setpriv"]
        if "runAsUser" in context:
            user = context["runAsUser"]
            group = context.get("runAsGroup", 0)
            command += [f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        if context.get("allowPrivilegeEscalation") is False:
            command.append("--no-new-privs")
        if not context.get("privileged"):
            wanted = _capabilities(context.get("capabilities", {}))
            bounds = ",".join(["-all", *(f"+{name}" for name in sorted(wanted))])
            command += ["--inh-caps=-all", f"--bounding-set={bounds}"]
        return [*command, "--"] if len(command) > 1 else []


def descendant(pid: int, generations: int) -> int:
    """The only child's only child ... of a process, or 0."""
    for _ in range(generations):
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return 0
        if not children:
            return 0
        pid = int(children[0])
    return pid


def command_line(pid: int) -> bytes:
    """A process' arguments, each ended by a zero byte; empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def pid_inside(pid: int, depth: int) -> int:
    """A process' PID in a PID namespace below the test's own, by how far below."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[1 + depth])
    raise AssertionError("the kernel tells no NSpid")


def _capabilities(wanted: Mapping[str, Sequence[str]]) -> set[str]:
    names = set(_DEFAULT_CAPABILITIES)
    for name in wanted.get("drop", ()):
        names = set() if name == "ALL" else names - {name.lower()}
    return names | {name.lower() for name in wanted.get("add", ())}
