"""A node of a test cluster: a machine, a range for pods, upstream's kube-proxy and a kubelet."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

import msgspec
from lightkube.resources.core_v1 import Node as NodeResource
from tests.rig import cni, controlplane
from tests.rig.cgroups import CgroupNames
from tests.rig.kubelet import Kubelet
from tests.rig.machine import Machine
from tests.rig.pods import Place
from tests.rig.probes import connects
from tests.rig.programs import Program

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.rig.controlplane import ControlPlane

_PODS_PREFIX = "10.244"
_NODES_PREFIX = "172.30.0"


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What makes one node differ from another.

    Attributes:
        number: From 1; gives the node's name and addresses.
        cgroup_names: How its kubelet and container runtime name cgroups.
        cgroup_version: 1 or 2; see `CgroupTree`.
    """

    number: int
    cgroup_names: CgroupNames
    cgroup_version: int = 2

    @property
    def name(self) -> str:
        """The Node object's name."""
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        """Its address among the nodes."""
        return f"{_NODES_PREFIX}.{10 + self.number}"

    @property
    def pods(self) -> str:
        """Its pods' range; the node itself has the first address."""
        return f"{_PODS_PREFIX}.{self.number}"


class Node:
    """A node, registered and ready for pods.

    Args:
        config: What it is like.
        peers: All nodes of the cluster; their pods are routed to them.
        control_plane: The cluster's.
    """

    def __init__(
        self, config: NodeConfig, peers: tuple[NodeConfig, ...], control_plane: ControlPlane
    ) -> None:
        self.config = config
        self.name = config.name
        self.address = config.address
        self._peers = peers
        self._control_plane = control_plane
        self.machine = Machine(
            config.name,
            control_plane.directory / config.name,
            cgroup_version=config.cgroup_version,
        )
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as ends:
            ends.enter_context(self.machine)
            cni.prepare(self.machine)
            self._connect()
            self._register()
            place = Place(
                node=self.name,
                address=self.address,
                gateway=f"{self.config.pods}.1",
                machine=self.machine,
                cgroup_names=self.config.cgroup_names,
                api=(controlplane.SERVICE_ADDRESS, "443"),
            )
            self.kubelet = ends.enter_context(
                Kubelet(place, self._control_plane, addresses=self.config.pods)
            )
            self.proxy = self._proxy()
            ends.callback(self.proxy.kill)
            self.proxy.start()
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def await_ready(self) -> None:
        """Wait until pods here reach the API server as a service."""
        self.proxy.await_ready(
            lambda: connects(self.machine.netns, (controlplane.SERVICE_ADDRESS, 443))
        )

    def run(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command among the node's own host processes and wait for it."""
        return self.machine.run(*argv, **options)

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command among the node's own host processes."""
        return self.machine.start(*argv, **options)

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Break the node's connections to the API server, and refuse new ones, for the block."""
        server = f"ip daddr {controlplane.ADDRESS} tcp dport {controlplane.PORT}"
        hook = "type filter hook output priority 0"
        rule = f"{server} reject with tcp reset"
        self.run("nft", f"table ip cut {{ chain out {{ {hook}; {rule}; }}; }}")
        try:
            self.run("ss", "--kill", "dst", controlplane.ADDRESS)
            yield
        finally:
            self.run("nft", "delete table ip cut")

    def _connect(self) -> None:
        self._control_plane.machine.ip(
            f"link add {self.name} type veth peer name eth0 netns {self.machine.pid}",
            f"link set {self.name} master nodes up",
            f"route add {self.config.pods}.0/24 via {self.address}",
        )
        self.machine.ip(
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            # Services' addresses need a route before kube-proxy's rules can translate them.
            f"route add default via {controlplane.ADDRESS}",
            *(
                f"route add {peer.pods}.0/24 via {peer.address}"
                for peer in self._peers
                if peer != self.config
            ),
        )
        self.machine.forward()

    def _register(self) -> None:
        client = self._control_plane.client
        self._control_plane.apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": self.name,
                    "labels": {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"},
                },
                "spec": {"podCIDR": f"{self.config.pods}.0/24"},
            }
        )
        # Nobody here takes the taint of a new node away when it turns ready.
        client.patch(NodeResource, self.name, {"spec": {"taints": None}})
        resources = {"cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "64Gi"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        status = {
            "addresses": [
                {"type": "InternalIP", "address": self.address},
                {"type": "Hostname", "address": self.name},
            ],
            "capacity": resources,
            "allocatable": resources,
            "conditions": [ready],
        }
        client.patch(NodeResource.Status, self.name, {"status": status})

    def _proxy(self) -> Program:
        plane = self._control_plane
        return Program(
            self.machine,
            str(plane.binaries / "kube-proxy"),
            f"--kubeconfig={plane.kubeconfig('system:kube-proxy')}",
            "--proxy-mode=nftables",
            f"--cluster-cidr={controlplane.PODS}",
            f"--hostname-override={self.name}",
            # Connection tracking's size is the machine's, not the namespace's.
            "--conntrack-max-per-core=0",
            log=plane.logs / f"{self.name}-kube-proxy.log",
        )
