"""containerd, with runc and a CNI plugin, for a test that runs in namespaces of its own."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import tarfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
from tests.e2e.harness import eventually
from tests.rig.programs import find

from troth.agent.cluster.cri import message_classes

if TYPE_CHECKING:
    from troth.mesh.model import Pod

_PAUSE = "troth.test/pause:1"

_CONFIG = """
version = 2
root = "{here}/root"
state = "{here}/state"
[grpc]
  address = "{here}/containerd.sock"
[ttrpc]
  address = "{here}/containerd.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{programs}/usr/sbin/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{programs}/usr/lib/cni"
    conf_dir = "{here}/cni"
"""

_NETWORK = {
    "cniVersion": "0.4.0",
    "name": "test",
    "plugins": [
        {
            "type": "ptp",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.231.0.0/24"}]]},
        }
    ],
}

_CRI = message_classes(
    {
        "LinuxPodSandboxConfig": (("cgroup_parent", "string", 1),),
        "PodSandboxConfig": (
            ("metadata", "PodSandboxMetadata", 1),
            ("hostname", "string", 2),
            ("linux", "LinuxPodSandboxConfig", 8),
        ),
        "RunPodSandboxRequest": (("config", "PodSandboxConfig", 1),),
        "RunPodSandboxResponse": (("pod_sandbox_id", "string", 1),),
        "PodIp": (("ip", "string", 1),),
        "PodSandboxStatus": (("network", "PodIp", 5),),
        "StatusRequest": (("pod_sandbox_id", "string", 1),),
        "StatusResponse": (("status", "PodSandboxStatus", 1),),
        "RemovePodSandboxRequest": (("pod_sandbox_id", "string", 1),),
        "RemovePodSandboxResponse": (),
    }
)


class Containerd:
    """A running containerd.

    Args:
        directory: For its files; short, because of its sockets' names.
    """

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "containerd.sock"
        self._here = directory
        self._cgroup = f"troth-test-{uuid.uuid4().hex[:8]}"
        self._programs = find("containerd")
        self._sandboxes: list[str] = []

    def __enter__(self) -> Self:
        # Names of namespaces, and CNI's leases, are to end with the test's mount namespace.
        for place in ("/run", "/var/lib"):
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        (self._here / "cni").mkdir()
        (self._here / "cni" / "10-test.conflist").write_text(json.dumps(_NETWORK))
        settings = {"here": self._here, "programs": self._programs, "image": _PAUSE}
        (self._here / "config.toml").write_text(_CONFIG.format(**settings))
        folders = ("usr/bin", "usr/sbin")
        path = ":".join([*(f"{self._programs}/{each}" for each in folders), os.environ["PATH"]])
        self._environment = {**os.environ, "PATH": path}
        self.start()
        image = self._here / "pause.tar"
        image.write_bytes(_image(self._programs / "bin" / "busybox"))
        command = ("ctr", f"--address={self.socket}", "--namespace=k8s.io")
        subprocess.run(
            [*command, "images", "import", "--snapshotter=native", str(image)],
            env=self._environment,
            check=True,
            capture_output=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        for sandbox in self._sandboxes:
            self._call("RemovePodSandbox", pod_sandbox_id=sandbox)
        self.stop()
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            for folder, _dirs, _files in os.walk(hierarchy / self._cgroup, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()

    def start(self) -> None:
        """Start the daemon, and return when it answers."""
        with (self._here / "log").open("a") as log:
            self._daemon = subprocess.Popen(
                ["containerd", f"--config={self._here}/config.toml"],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        eventually(self.socket.exists, what="containerd's socket")
        eventually(self._answers, what="an answer of containerd")

    def _answers(self) -> bool:
        """Whether it is there: for a moment it listens and says that it isn't initialized."""
        try:
            self._call("ListPodSandbox")
        except grpc.RpcError as error:
            if "not initialized yet" in error.details():
                return False
            raise
        return True

    def stop(self) -> None:
        """End the daemon; the pods' processes stay."""
        self._daemon.terminate()
        self._daemon.wait()
        self.socket.unlink(missing_ok=True)

    def run(self, pod: Pod) -> str:
        """Start a pod's sandbox; its address."""
        uid = pod.kubelet_uid or pod.uid
        config = {
            "metadata": {"name": pod.name, "uid": uid, "namespace": pod.namespace},
            "hostname": pod.name,
            "linux": {"cgroup_parent": f"/{self._cgroup}/kubepods/besteffort/pod{uid}"},
        }
        sandbox = self._call("RunPodSandbox", config=config).pod_sandbox_id
        self._sandboxes.append(sandbox)
        status = self._call("PodSandboxStatus", "Status", pod_sandbox_id=sandbox)
        return str(status.status.network.ip)

    def _call(self, method: str, messages: str = "", **fields: Any) -> Any:
        name = messages or method
        options = (("grpc.default_authority", "localhost"),)
        with grpc.insecure_channel(f"unix:{self.socket}", options=options) as channel:
            call = channel.unary_unary(
                f"/runtime.v1.RuntimeService/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=_CRI[f"{name}Response"].FromString,
            )
            return call(_CRI[f"{name}Request"](**fields), timeout=30, wait_for_ready=True)


def _image(program: Path) -> bytes:
    """An image archive, as `docker save` makes it, that does nothing for ever."""
    layer = _tar({"bin/busybox": program.read_bytes()})
    config = {
        "architecture": os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "1000000"]},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
        },
    }
    manifest = [{"Config": "config.json", "RepoTags": [_PAUSE], "Layers": ["layer.tar"]}]
    files = {"config.json": config, "manifest.json": manifest}
    encoded = {name: json.dumps(value).encode() for name, value in files.items()}
    return _tar({**encoded, "layer.tar": layer})


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()
