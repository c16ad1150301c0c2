"""What a pod of a local mesh can't get at, tried from inside of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from tests.e2e.apps import idle_pod, namespace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.e2e.harness import Mesh

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
from troth.local import call
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


LIMITS_OF_EACH = """
for process in /proc/[0-9]*; do
  echo "$(cat $process/comm) $(grep core $process/limits)"
done
"""
