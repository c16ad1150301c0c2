"""A real node of a test cluster: upstream's kubelet and kube-proxy, containerd, runc and CNI."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import yaml
from lightkube.resources.core_v1 import Node
from tests.e2e.harness import PATIENCE_SECONDS
from tests.rig import controlplane, dns, objects, programs
from tests.rig.nodes import images
from tests.rig.nodes.machine import WholeMachine
from tests.rig.programs import Program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.controlplane import ControlPlane

_PODS_PREFIX = "10.244"
_PODS_PREFIX_6 = "fd44:0:0"
_NODES_PREFIX = "172.30.0"
_NODES_PREFIX_6 = "fd30:"
_CNI_PLUGINS = ("bridge", "host-local", "loopback")
_CNI_CONFIG = "/etc/cni/net.d/10-test.conflist"
_SOCKET = "/run/containerd/containerd.sock"
_STATIC_PODS = "/etc/kubernetes/manifests"
_HELD_BACK = "docker.io/library/held-back:1"

_CONTAINERD = """
version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
  # A machine within another may not make its processes less likely to be killed.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false
"""

# In the memory group of a process: no more memory than there is, and one who wants some.
_EXHAUST = """
group=/sys/fs/cgroup/memory$(sed -n 's/.*:memory://p' "/proc/$1/cgroup")
echo 1000 >"/proc/$1/oom_score_adj"
echo $(($(cat "$group/memory.usage_in_bytes") + (8 << 20))) >"$group/memory.limit_in_bytes"
echo 0 >"$group/cgroup.procs"
exec python3 -c 'b"x" * (48 << 20)'
"""


class Software(msgspec.Struct, frozen=True):
    """What nodes run, as folders that the repository's scripts print.

    Attributes:
        kubernetes: With kubelet and kube-proxy.
        containerd: With containerd, its shim, ctr, and a CNI plugin.
        debian: With runc and the other CNI plugins.
        images: The archive of all images.
    """

    kubernetes: Path
    containerd: Path
    debian: Path
    images: Path

    @classmethod
    def find(cls, directory: Path) -> Software:
        """Find or make all of it, the images in a directory."""
        return cls(
            programs.find("kubernetes"),
            programs.find("containerd-v2"),
            programs.find("containerd"),
            images.write(directory),
        )


class RealNode:
    """A node, from its start until its power fails, as often as that happens.

    Args:
        number: From 1; gives its name and addresses.
        count: How many nodes there are.
        plane: The cluster's control plane.
        software: What it runs.
    """

    def __init__(self, number: int, count: int, plane: ControlPlane, software: Software) -> None:
        self.name = f"node-{number}"
        self.address = _address(number)
        self._number = number
        self._peers = [each for each in range(1, count + 1) if each != number]
        self._plane = plane
        self._software = software
        self._ends = contextlib.ExitStack()
        self._has_images = False
        # What the programs are given, and where they are.
        folders = [plane.directory, *msgspec.structs.astuple(software)[:-1]]
        self.machine = WholeMachine(self.name, plane.directory / self.name, folders)
        self._configure()

    def __enter__(self) -> Self:
        """Switch it on; see `await_ready`."""
        with contextlib.ExitStack() as ends:
            for program in (self.containerd, self.kubelet, self.proxy):
                ends.callback(program.join)
            ends.enter_context(self.machine)
            self._connect()
            self.install_network()
            self.containerd.start()
            self.containerd.await_ready(self.file(_SOCKET).exists)
            if not self._has_images:
                self._import_images(ends)
            self.file(_STATIC_PODS).mkdir(parents=True)
            self.kubelet.start()
            self.proxy.start()
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Cut its power; its disk stays."""
        self._ends.close()

    def reboot(self) -> None:
        """Cut its power and switch it on again; see `await_ready`."""
        self.__exit__(None, None, None)
        self.__enter__()

    def restart(self, name: str) -> None:
        """Restart ``containerd`` or ``kubelet``, and nothing that it has started."""
        program: Program = getattr(self, name)
        program.ask_to_end()
        program.await_end()
        program.start()

    def processes(self, word: str) -> list[int]:
        """The processes with a word in their command lines, by the PIDs that they have here."""
        found = []
        for file in self.file("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if word.encode() in file.read_bytes():
                    found.append(int(file.parent.name))
        return found

    def kill(self, word: str) -> None:
        """End the processes with a word in their command lines, as a crash would."""
        pids = [str(pid) for pid in self.processes(word)]
        assert pids, f"{self.name} has no process with {word}"
        self.machine.run("kill", "-KILL", *pids)

    def exhaust_memory(self, word: str) -> None:
        """Let a container use up its memory, so that the kernel kills its process with the word."""
        (pid,) = self.processes(word)
        self.machine.run("sh", "-ec", _EXHAUST, "sh", str(pid), check=False)

    @contextlib.contextmanager
    def static_pod(self, pod: dict[str, Any]) -> Iterator[None]:
        """Have the kubelet run a pod that it knows from a file, for the block."""
        file = self.file(f"{_STATIC_PODS}/{pod['metadata']['name']}.yaml")
        file.write_text(yaml.safe_dump(pod))
        try:
            yield
        finally:
            file.unlink()

    def next_pod_address(self) -> str:
        """The address that its next pod will get."""
        last = self.machine.directory / "cni" / "networks" / "test" / "last_reserved_ip.0"
        text = last.read_text() if last.exists() else ""
        number = int(text.rpartition(".")[2] or 1) % 254 + 1
        return f"{_PODS_PREFIX}.{self._number}.{max(number, 2)}"

    def await_ready(self) -> None:
        """Wait until it can run pods."""
        if not self._has_images:
            said, _ = self._importing.communicate(timeout=PATIENCE_SECONDS)
            assert self._importing.returncode == 0, said
            self._has_images = True
        self.kubelet.await_ready(self._is_ready, seconds=PATIENCE_SECONDS)

    def file(self, path: str) -> Path:
        """A file of the node, by a path that is good outside of it."""
        return Path(f"/proc/{self.machine.pid}/root{path}")

    def ctr(self, *words: str) -> None:
        """Have containerd's own client do something with the node's images."""
        self.machine.run(str(self._software.containerd / "ctr"), "--namespace=k8s.io", *words)

    @contextlib.contextmanager
    def image_held_back(self) -> Iterator[None]:
        """Let the node have no image of troth for the block."""
        self._rename(images.TROTH, _HELD_BACK)
        try:
            yield
        finally:
            self._rename(_HELD_BACK, images.TROTH)

    def output(self, namespace: str) -> dict[str, list[str]]:
        """What the pods of a namespace here have said, by pod, also of containers that ended."""
        found: dict[str, list[str]] = {}
        for file in self._outputs(namespace):
            pod = file.parents[1].name.split("_")[1]
            lines = [line.split(" ", 3)[3] for line in file.read_text().splitlines()]
            found.setdefault(pod, []).extend(lines)
        return found

    def first_word(self, namespace: str, pod: str) -> str:
        """When a pod said something for the first time (RFC 3339); empty if it hasn't yet."""
        text = "".join(file.read_text() for file in self._outputs(namespace, pod))
        return text.partition(" ")[0]

    def last_words(self) -> str:
        """The ends of its programs' output."""
        return "\n".join(p.last_words() for p in (self.containerd, self.kubelet, self.proxy))

    def _configure(self) -> None:
        plane, software = self._plane, self._software
        runc = software.debian / "usr" / "sbin" / "runc"
        containerd = plane.directory / f"{self.name}-containerd.toml"
        containerd.write_text(_CONTAINERD.format(pause=images.PAUSE, runc=runc))
        kubelet = plane.directory / f"{self.name}-kubelet.yaml"
        kubelet.write_text(yaml.safe_dump(self._kubelet_configuration()))
        self.containerd = self._program(
            *("env", f"PATH={software.containerd}:/usr/sbin:/usr/bin:/sbin:/bin"),
            *("containerd", f"--config={containerd}"),
            name="containerd",
        )
        user = f"system:node:{self.name}"
        self.kubelet = self._program(
            str(software.kubernetes / "kubelet"),
            f"--config={kubelet}",
            f"--kubeconfig={plane.kubeconfig(user, ('system:nodes',))}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address},{_address_6(self._number)}",
            name="kubelet",
        )
        self.proxy = self._program(
            str(software.kubernetes / "kube-proxy"),
            f"--kubeconfig={plane.kubeconfig('system:kube-proxy')}",
            "--proxy-mode=nftables",
            f"--cluster-cidr={controlplane.PODS},{controlplane.PODS_6}",
            f"--hostname-override={self.name}",
            # Connection tracking's size is the machine's, not the namespace's.
            "--conntrack-max-per-core=0",
            name="kube-proxy",
        )

    def _program(self, *argv: str, name: str) -> Program:
        log = self._plane.logs / f"{self.name}-{name}.log"
        return Program(self.machine, *argv, log=log)

    def _kubelet_configuration(self) -> dict[str, object]:
        authority = str(self._plane.authority)
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "serializeImagePulls": False,
            "staticPodPath": _STATIC_PODS,
            "maxPods": 250,
            "clusterDNS": [dns.ADDRESS],
            "clusterDomain": dns.DOMAIN,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": authority},
            },
            "authorization": {"mode": "Webhook"},
            # The disk is the machine's, and who fills it is none of the test's business.
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        }

    def _connect(self) -> None:
        plane = self._plane.machine
        # After a loss of power the kernel may still be about to remove it.
        plane.run("ip", "link", "delete", self.name, check=False)
        plane.ip(
            f"link add {self.name} type veth peer name eth0 netns {self.machine.pid}",
            f"link set {self.name} master nodes up",
            f"route replace {_pods(self._number)} via {self.address}",
            f"route replace {_pods_6(self._number)} via {_address_6(self._number)}",
        )
        self.machine.forward()
        self.machine.ip(
            f"addr add {self.address}/24 dev eth0",
            f"addr add {_address_6(self._number)}/64 dev eth0 nodad",
            "link set eth0 up",
            # Services' addresses need a route before kube-proxy's rules can translate them.
            f"route add default via {controlplane.ADDRESS}",
            f"route add default via {controlplane.ADDRESS_6}",
            *(f"route add {_pods(peer)} via {_address(peer)}" for peer in self._peers),
            *(f"route add {_pods_6(peer)} via {_address_6(peer)}" for peer in self._peers),
        )

    def install_network(self) -> None:
        """Write the network's configuration, and the plugins that it names, as its program does."""
        ranges = [[{"subnet": _pods(self._number)}], [{"subnet": _pods_6(self._number)}]]
        everywhere = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": everywhere},
        }
        portmap = {
            "type": "portmap",
            "capabilities": {"portMappings": True},
            "backend": "nftables",
        }
        config = {"cniVersion": "1.0.0", "name": "test", "plugins": [bridge, portmap]}
        self.file(_CNI_CONFIG).write_text(json.dumps(config))
        folder = self._software.debian / "usr" / "lib" / "cni"
        # Debian's portmap needs iptables.
        for plugin in (self._software.containerd / "portmap", *(folder / n for n in _CNI_PLUGINS)):
            link = self.file(f"/opt/cni/bin/{plugin.name}")
            link.unlink(missing_ok=True)
            link.symlink_to(plugin)

    def _outputs(self, namespace: str, pod: str = "*") -> list[Path]:
        # Lines of time, stream, and whether the line is complete; see the CRI's logging format.
        return sorted((self.machine.directory / "pods").glob(f"{namespace}_{pod}_*/*/*.log"))

    def _rename(self, old: str, new: str) -> None:
        self.ctr("images", "tag", "--force", old, new)
        self.ctr("images", "rm", old)

    def _import_images(self, ends: contextlib.ExitStack) -> None:
        """Start to import the images; it takes a while, and all nodes do it at the same time."""
        self._importing = self.machine.start(
            str(self._software.containerd / "ctr"),
            *("--namespace=k8s.io", "images", "import", "--local"),
            "--discard-unpacked-layers",
            str(self._software.images),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        ends.callback(self._importing.communicate)

    def _is_ready(self) -> bool:
        found = objects.find(self._plane.client, Node, self.name)
        conditions = found["status"].get("conditions", ()) if found else ()
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _address(number: int) -> str:
    return f"{_NODES_PREFIX}.{10 + number}"


def _pods(number: int) -> str:
    return f"{_PODS_PREFIX}.{number}.0/24"


def _address_6(number: int) -> str:
    return f"{_NODES_PREFIX_6}:{10 + number}"


def _pods_6(number: int) -> str:
    return f"{_PODS_PREFIX_6}:{number}::/64"
