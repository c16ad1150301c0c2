"""What a container gets of what its manifest says, and what its probes do."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import Host, Mesh, eventually
from tests.e2e.lifetimes import CTRL_C, Foreground

if TYPE_CHECKING:
    from collections.abc import Iterator

HEALTH = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc
answers = {b"": b"\\x08\\x01", b"\\x0a\\x04shop": b"\\x08\\x01", b"\\x0a\\x04sick": b"\\x08\\x02"}
def check(request, context):
    return answers[b"" if not request else b"\\x0a\\x04" + request[-4:]]
methods = {"Check": grpc.unary_unary_rpc_method_handler(check)}
server = grpc.server(ThreadPoolExecutor(1))
handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)
server.add_generic_rpc_handlers((handler,))
server.add_insecure_port("0.0.0.0:5000")
server.start()
server.wait_for_termination()
"""


def _pod(name: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A pod whose containers sleep if they have nothing else to do."""
    idle = {"command": ["sleep", "infinity"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {"name": f"c{index}", **idle, **c} for index, c in enumerate(containers)
            ],
            **spec,
        },
    }


def _serving(service: str) -> dict[str, Any]:
    probe = {"grpc": {"port": 5000, "service": service}, "periodSeconds": 1, "timeoutSeconds": 5}
    return {"command": [sys.executable, "-c", HEALTH], "readinessProbe": probe}


PODS = [
    _pod("bare", {"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["KILL"]}}}),
    _pod("somebody", {}, securityContext={"runAsNonRoot": True}),
    _pod(
        "told",
        {
            "resources": {"limits": {"memory": "64Mi"}},
            "env": [
                {
                    "name": "MIB",
                    "valueFrom": {
                        "resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}
                    },
                }
            ],
            "volumeMounts": [{"name": "about", "mountPath": "/about"}],
        },
        volumes=[
            {
                "name": "about",
                "projected": {
                    "sources": [
                        {
                            "downwardAPI": {
                                "items": [
                                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
                                ]
                            }
                        }
                    ]
                },
            }
        ],
    ),
    _pod(
        "ill",
        {
            "command": ["sh", "-c", "echo started; exec sleep infinity"],
            "livenessProbe": {
                "exec": {"command": ["false"]},
                "periodSeconds": 1,
                "failureThreshold": 1,
            },
        },
    ),
    _pod(
        "slow",
        {
            "command": ["sh", "-c", "sleep 1; touch /up; exec sleep infinity"],
            "startupProbe": {
                "exec": {"command": ["test", "-e", "/up"]},
                "periodSeconds": 1,
                "failureThreshold": 60,
            },
            "livenessProbe": {
                "exec": {"command": ["test", "-e", "/up"]},
                "periodSeconds": 1,
                "failureThreshold": 1,
            },
        },
    ),
    _pod(
        "never",
        {
            "startupProbe": {
                "exec": {"command": ["false"]},
                "periodSeconds": 1,
                "failureThreshold": 1,
            },
        },
    ),
    _pod("healthy", _serving("shop")),
    _pod("sick", _serving("sick")),
    _pod("brief", {}, activeDeadlineSeconds=1),
]


@pytest.fixture(scope="module", params=["root", "plain"])
def mesh(shared_host: Host, request: pytest.FixtureRequest) -> Iterator[Mesh]:
    made = Mesh(shared_host, {}, plain=request.param == "plain")
    for pod in PODS:
        made.write(f"{pod['metadata']['name']}.json", json.dumps(pod))
    made.options = ("--timeout=1",)
    made.troth("up", "--detach", *made.options, str(made.directory), check=False)
    try:
        yield made
    finally:
        made.__exit__()


def _container(mesh: Mesh, pod: str) -> dict[str, Any]:
    (container,) = mesh.pod(f"default/{pod}")["containers"]
    return dict(container)


def _runs(mesh: Mesh, pod: str) -> None:
    eventually(lambda: _container(mesh, pod)["state"] == "running", what=f"{pod}'s start")


def test_a_container_has_the_capabilities_that_it_asks_for_alone(mesh: Mesh) -> None:
    _runs(mesh, "bare")
    status = mesh.exec("default/bare", "cat", "/proc/self/status").stdout
    kill = f"{1 << 5:016x}"
    assert [line.split()[1] for line in status.splitlines() if line.startswith("CapB")] == [kill]


def test_a_container_that_must_not_be_root_is_nobody(mesh: Mesh) -> None:
    _runs(mesh, "somebody")
    user = mesh.exec("default/somebody", "id", "-u").stdout.strip()
    # A plain user's 0 is that user; so it is where the tests are a plain user's.
    assert user == ("0" if mesh.plain or os.geteuid() else "65534")


def test_a_container_is_told_of_itself(mesh: Mesh) -> None:
    _runs(mesh, "told")
    told = mesh.exec("default/told", "sh", "-c", "echo $MIB; cat /about/labels").stdout
    assert told == '64\napp="told"'


def test_a_container_that_is_found_dead_is_started_again_and_says_why(mesh: Mesh) -> None:
    why = "its liveness probe failed: false ended with exit code 1"
    seen = eventually(
        lambda: [c for c in [_container(mesh, "ill")] if c["reason"] == "CrashLoopBackOff"],
        what="the container's end",
    )
    assert seen[0]["message"] == why
    eventually(lambda: _container(mesh, "ill")["restarts"] > 0, what="its next start")


def test_no_other_probe_counts_before_a_container_has_started_up(mesh: Mesh) -> None:
    eventually(lambda: _container(mesh, "slow")["ready"], what="its start-up")
    assert _container(mesh, "slow")["restarts"] == 0


def test_a_container_that_does_not_start_up_in_time_is_started_again(mesh: Mesh) -> None:
    eventually(lambda: _container(mesh, "never")["restarts"] > 0, what="its next start")
    assert not _container(mesh, "never")["ready"]


def test_a_grpc_probe_asks_the_service_that_it_names(mesh: Mesh) -> None:
    eventually(lambda: _container(mesh, "healthy")["ready"], what="its readiness")
    wrong = "not ready: sick is not SERVING"
    eventually(lambda: _container(mesh, "sick")["message"] == wrong, what=wrong)


def test_a_pod_whose_time_is_over_has_failed(mesh: Mesh) -> None:
    eventually(lambda: mesh.pod("default/brief")["phase"] == "Failed", what="its end")
    waiting = mesh.status()["waiting_for"]
    why = "default/brief: DeadlineExceeded: it ran for activeDeadlineSeconds, 1"
    assert why in waiting
    assert _container(mesh, "brief")["state"] == "terminated"


def test_a_crash_is_told_at_once_with_the_last_lines(host: Host) -> None:
    script = "for n in 1 2 3 4 5 6; do echo line $n; done; exit 3"
    made = Mesh(host, {"pod.json": json.dumps(_pod("crashing", {"command": ["sh", "-c", script]}))})
    troth = Foreground(made, ready=False)
    try:
        troth.read_until(b"    line 6")
        told = troth.output
        assert "container c0: ended with exit code 3; it wrote at last:" in told
        assert "line 2" in told
        assert "line 1" not in told
        troth.read_until(b"Ctrl-C ends it")
        troth.type(CTRL_C)
        troth.wait()
    finally:
        made.__exit__()
