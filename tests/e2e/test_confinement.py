"""What a pod of a local mesh can't get at, tried from inside of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.apps import idle_pod, namespace
from tests.e2e.harness import TROTH, Mesh

import troth.local.launch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.e2e.harness import Host

ASK_FOR_SECRETS = """
import sys, grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
with grpc.insecure_channel("unix:" + sys.argv[1]) as channel:
    stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
    request = discovery_pb2.DeltaDiscoveryRequest(type_url=kind, resource_names_subscribe=["*"])
    try:
        print("told", len(next(iter(stub.DeltaAggregatedResources(iter([request]))))))
    except grpc.RpcError as error:
        print(error.code().name)
"""
ASK_STATUS = """
import sys
from pathlib import Path
from troth.control.protocol import call
print(*call(Path(sys.argv[1]), "status"))
"""


@pytest.fixture(scope="module")
def manifests() -> Mapping[str, str]:
    """A pod in the mesh, which has a certificate, and one that is not."""
    return {
        "mesh.yaml": namespace("finance")
        + namespace("legacy", in_mesh=False)
        + idle_pod("web", namespace="finance")
        + idle_pod("cron", namespace="legacy")
    }


def test_the_ads_socket_tells_nobody_but_the_envoy_that_we_started(mesh: Mesh) -> None:
    command = (sys.executable, "-c", ASK_FOR_SECRETS, str(mesh.state / "ads.sock"))
    assert mesh.on_node(*command).stdout == "UNAVAILABLE\n"
    assert mesh.host.run(*command).stdout == "UNAVAILABLE\n"
    mesh.wait_ready()


def test_the_control_socket_answers_nobody_inside_the_mesh(mesh: Mesh) -> None:
    asked = (sys.executable, "-c", ASK_STATUS, str(mesh.state / "control.sock"))
    inside = mesh.on_node(*asked, check=False)
    assert inside.returncode != 0
    assert "it is answered only outside of the mesh" in inside.stderr
    assert "finance" in mesh.host.run(*asked).stdout


def test_envoy_and_the_agent_dump_no_core(mesh: Mesh) -> None:
    found = mesh.on_node("sh", "-c", LIMITS_OF_EACH).stdout.splitlines()
    limits = {line.split()[0]: line.split()[-3:-1] for line in found}
    assert limits["envoy"] == ["1", "1"]
    agents = [line for line in found if line.startswith("python")]
    assert [line.split()[-3:-1] for line in agents].count(["1", "1"]) == 1


@pytest.fixture(scope="module", params=[False, True], ids=["privileged", "plain user"])
def thief(request: pytest.FixtureRequest, shared_host: Host) -> Iterator[Mesh]:
    """A mesh with a pod outside of it to which the manifests show the mesh's state as volumes."""
    mesh = Mesh(shared_host, {}, plain=request.param)
    (mesh.home / "victim").write_text("the host's")
    (mesh.home / "shared").mkdir(mode=0o777)
    (mesh.home / "link").symlink_to("state")
    mesh.options = ("--writable", str(mesh.home / "shared"))
    mesh.write("mesh.yaml", namespace("finance") + idle_pod("web", namespace="finance"))
    mesh.write("thief.yaml", namespace("legacy", in_mesh=False) + THIEF.format(home=mesh.home))
    with mesh:
        yield mesh


THIEF = """
---
apiVersion: v1
kind: Pod
metadata: {{name: thief, namespace: legacy}}
spec:
  volumes:
  - {{name: around, hostPath: {{path: {home}}}}}
  - {{name: direct, hostPath: {{path: {home}/state}}}}
  - {{name: link, hostPath: {{path: {home}/link}}}}
  - {{name: scratch, emptyDir: {{}}}}
  containers:
  - name: thief
    image: none
    command: [sleep, infinity]
    readinessProbe: {{exec: {{command: [test, -e, /scratch]}}}}
    volumeMounts:
    - {{name: around, mountPath: /around, readOnly: true}}
    - {{name: direct, mountPath: /direct}}
    - {{name: link, mountPath: /link}}
    - {{name: scratch, mountPath: /scratch}}
"""

STEAL = {
    "a file of the host's": "echo stolen > {home}/victim && ! grep -q stolen {home}/victim",
    "a file of the host's by a read-only volume": "echo stolen > /around/victim",
    "the state directory": "ls -A {home}/state | grep .",
    "the state directory by a volume around it": "ls -A /around/state | grep .",
    "the state directory by a link beside it": "ls -A /around/link/ | grep .",
    "the state directory by a volume of it": "ls -A /direct | grep .",
    "the state directory by a link as a volume": "ls -A /link | grep .",
    "a socket of the mesh's": "find / -xdev -name '*.sock' -path '*state*' 2> /dev/null | grep .",
    "what the mesh's first process sees": "ls /proc/1/root/",
    "processes that aren't its pod's": "cat /proc/[0-9]*/comm | grep -vE '^(sleep|sh|cat|grep)$'",
    "the kernel's core_pattern": "echo '|/bin/false' > /proc/sys/kernel/core_pattern",
    "a setting of its network": "echo 1 > /proc/sys/net/ipv4/ip_forward",
    "a cgroup": "mkdir /sys/fs/cgroup/mine",
    "a mount": "mount -t tmpfs tmpfs /mnt",
    "a mount in a user namespace": "unshare -Urm mount -o remount,rw,bind /proc/sys",
    "the host's devices": "ls /dev/mem /dev/kmsg /dev/fuse /dev/loop0 /dev/vda 2> /dev/null",
    "the host's /run": "ls -A /run | grep -vE '^(lock|mount|user)$'",
    "the mesh by its command": "TROTH_STATE_DIR={home}/state {troth} status",
}


@pytest.mark.parametrize("what", STEAL)
def test_a_pod_does_not_get_at(thief: Mesh, what: str) -> None:
    command = STEAL[what].format(home=thief.home, troth=TROTH)
    done = thief.exec("legacy/thief", "sh", "-c", command)
    assert done.returncode != 0, done.stdout
    assert (thief.home / "victim").read_text() == "the host's"


def test_a_pod_can_not_change_troth_itself(thief: Mesh) -> None:
    program = Path(troth.local.launch.__file__)
    before = program.read_bytes()
    done = thief.exec("legacy/thief", "sh", "-c", f"echo 'import nosuch' > {program}")
    assert program.read_bytes() == before
    assert done.returncode == 0 or "denied" in done.stderr
    assert thief.exec("legacy/thief", "true").returncode == 0


def test_a_pod_changes_what_the_user_lets_it_change(thief: Mesh) -> None:
    path = thief.home / "shared/note"
    thief.exec("legacy/thief", "sh", "-c", f"echo mine > {path}", check=True)
    assert path.read_text() == "mine\n"


def test_a_pod_has_what_it_changed_until_it_ends(thief: Mesh) -> None:
    thief.exec("legacy/thief", "sh", "-c", "echo mine > /opt/note; mkdir /var/lib/app", check=True)
    assert thief.exec("legacy/thief", "cat", "/opt/note").stdout == "mine\n"
    assert thief.exec("finance/web", "cat", "/opt/note").returncode != 0


LIMITS_OF_EACH = """
for process in /proc/[0-9]*; do
  echo "$(cat $process/comm) $(grep core $process/limits)"
done
"""
