"""The beginning of a mesh, and what it says of what it was given."""

from __future__ import annotations

import contextlib
import re
import stat
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import Host, Mesh, eventually
from tests.e2e.lifetimes import CTRL_C, ONE_POD, THREE_PODS, Foreground, MakeMesh, leaving_nothing
from tests.e2e.manifests import document, namespace, policy, server
from tests.e2e.policies import wait_serving

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def one_pod(shared_host: Host) -> Iterator[Mesh]:
    """A mesh of one pod."""
    with Mesh(shared_host, ONE_POD) as mesh:
        yield mesh


def test_a_second_mesh_in_the_same_state_directory_is_refused(one_pod: Mesh) -> None:
    second = one_pod.troth("up", "--detach", str(one_pod.directory), check=False)
    assert second.returncode == 1
    assert "a mesh is running already" in second.stderr
    assert "troth down" in second.stderr
    assert one_pod.status()["ready"]


def test_a_path_that_does_not_exist_is_wrong_use(make_mesh: MakeMesh) -> None:
    mesh = make_mesh({})
    with leaving_nothing(mesh):
        refused = mesh.troth("up", str(mesh.home / "nowhere"), check=False)
        assert refused.returncode == 2
        assert f"{mesh.home}/nowhere: does not exist" in refused.stderr


@pytest.mark.parametrize("command", ["status", "events", "exec", "logs"])
def test_without_a_mesh_commands_say_how_to_start_one(make_mesh: MakeMesh, command: str) -> None:
    mesh = make_mesh({})
    arguments = {"exec": ["finance/web", "--", "true"], "logs": ["finance/web"]}.get(command, [])
    refused = mesh.troth(command, *arguments, check=False)
    assert refused.returncode == 1
    assert "no mesh is running" in refused.stderr
    assert "troth up" in refused.stderr


def test_a_pod_without_a_command_is_named_and_does_not_hold_up_the_others(
    make_mesh: MakeMesh,
) -> None:
    nameless = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "finance", "name": "vault"},
        "spec": {"containers": [{"name": "main", "image": "vault:1"}]},
    }
    mesh = make_mesh({**ONE_POD, "vault.yaml": document([nameless])})
    started = mesh.troth("up", "--detach", str(mesh.directory), check=False)
    with contextlib.ExitStack() as ended:
        ended.callback(mesh.troth, "down")
        assert started.returncode == 1  # as `troth status` has it
        assert mesh.pod("finance/web")["phase"] == "Running"
        (problem,) = mesh.status()["problems"]
        assert problem["subject"] == "Pod finance/vault"
        assert "containers[0]" in problem["path"]
        for text in (started.stderr, mesh.troth("status", check=False).stdout):
            assert "Pod finance/vault" in text
            assert "the container main has no command; set command" in text


DOUBTFUL = {
    "not what it seems": [
        policy("finance/none", "STRICT", selector={"app": "wbe"}),
        policy("finance/port", None, selector={"app": "web"}, ports={80: "STRICT"}),
        policy("fiance/space", "STRICT"),
    ],
    "kinds that nobody acts on": [
        {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"namespace": "finance", "name": "web"},
        }
        for api_version, kind in (
            ("security.istio.io/v1", "AuthorizationPolicy"),
            ("networking.istio.io/v1", "DestinationRule"),
        )
    ],
    "fields that nobody acts on": [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": "finance", "name": "web", "labels": {"app": "web"}},
            "spec": {
                "hostIPC": True,
                "initContainers": [
                    {"name": "side", "restartPolicy": "Always", "command": ["sleep", "infinity"]}
                ],
                "containers": [
                    {
                        "name": "main",
                        "command": ["sleep", "infinity"],
                        "ports": [{"containerPort": 8080}],
                    }
                ],
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": "finance", "name": "web"},
            "spec": {
                "selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": 8080}],
                "externalIPs": ["192.0.2.9"],
            },
        },
    ],
}
DOUBTS = (
    "doesn't match the only workload given in namespace finance; they have app=web",
    "80 is Service finance/web's port; write the container's, 8080",
    "is fiance, and no other object given is in that namespace",
    "AuthorizationPolicy.security.istio.io: nobody is refused for what it says",
    "DestinationRule.networking.istio.io: connections are made as ever",
    "Pod finance/web: hostIPC: has no effect on a local pod",
    "Service finance/web: spec.externalIPs: has no effect in a local mesh",
)


def test_a_running_mesh_says_once_each_what_validate_knows(make_mesh: MakeMesh) -> None:
    objects = [namespace("finance", mesh=True), *(each for of in DOUBTFUL.values() for each in of)]
    mesh = make_mesh({"mesh.yaml": document(objects)})
    troth = Foreground(mesh)
    status = mesh.troth("status", check=False).stdout
    for doubt in DOUBTS:
        assert (doubt, status.count(doubt)) == (doubt, 1)
    assert mesh.pod("finance/web")["ready"]
    troth.type(CTRL_C)
    assert troth.wait() == 0
    for doubt in DOUBTS:
        assert (doubt, troth.output.count(doubt)) == (doubt, 1)

    with contextlib.ExitStack() as ended:
        ended.callback(mesh.troth, "down")
        started = mesh.troth("up", "--detach", str(mesh.directory)).stderr
        for doubt in DOUBTS:
            assert (doubt, started.count(doubt)) == (doubt, 1)


def test_a_sidecar_that_fails_is_named_with_the_command_that_shows_why(
    make_mesh: MakeMesh,
) -> None:
    side = {"name": "side", "restartPolicy": "Always", "command": ["sh", "-c", "echo no; exit 3"]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "finance", "name": "web"},
        "spec": {
            "initContainers": [side],
            "containers": [{"name": "main", "command": ["sleep", "infinity"]}],
        },
    }
    mesh = make_mesh({"mesh.yaml": document([namespace("finance", mesh=True), pod])})
    with contextlib.ExitStack() as ended:
        ended.callback(mesh.troth, "down")
        mesh.troth("up", "--detach", "--timeout=5", str(mesh.directory), check=False)
        words = "the last exit code was 3; `troth logs finance/web -c side` shows what it wrote"
        eventually(lambda: words in str(mesh.status()["waiting_for"]), what="the command")
        eventually(  # when it has just been started again, it has written nothing yet
            lambda: "no" in mesh.troth("logs", "finance/web", "-c", "side", check=False).stdout,
            what="its log",
        )


def test_a_doubt_goes_when_its_cause_does(one_pod: Mesh) -> None:
    def write(app: str) -> None:
        one_pod.write(
            "policy.yaml", document([policy("finance/p", "STRICT", selector={"app": app})])
        )

    write("wbe")
    (problem,) = eventually(lambda: one_pod.status()["problems"], what="a problem")
    assert (problem["path"], problem["severity"]) == ("spec.selector.matchLabels", "warning")
    assert one_pod.troth("status").returncode == 0
    write("web")
    eventually(lambda: not one_pod.status()["problems"], what="no problem")


def test_a_mesh_that_does_not_become_ready_says_why_and_goes_on(make_mesh: MakeMesh) -> None:
    container: dict[str, Any] = {"name": "main", "image": "none", "command": ["sleep", "infinity"]}
    container["envFrom"] = [{"configMapRef": {"name": "forgotten"}}]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "finance", "name": "batch"},
        "spec": {"containers": [container]},
    }
    mesh = make_mesh({**ONE_POD, "batch.yaml": document([pod])})

    def start(seconds: int) -> str:
        """What it says when it isn't ready in time."""
        command = ("up", "--detach", f"--timeout={seconds}", str(mesh.directory))
        started = mesh.troth(*command, check=False)
        assert started.returncode == 1
        assert "not ready" in started.stderr
        return started.stderr

    with contextlib.ExitStack() as ended:
        ended.callback(mesh.troth, "down")
        said = start(3)
        for seconds in (9, 27):  # on a busy machine it has other things to wait for until then
            if "forgotten" not in said:
                mesh.troth("down")
                said = start(seconds)
        assert "finance/batch: container main: " in said
        assert "forgotten" in said
        eventually(lambda: mesh.pod("finance/web")["phase"] == "Running", what="the other pod")


def test_a_pod_whose_command_ends_at_once_is_not_called_ready(make_mesh: MakeMesh) -> None:
    (account, crashing) = server("finance/crashing")
    crashing["spec"]["containers"][0]["command"] = ["sh", "-c", "echo no such file; exit 3"]
    mesh = make_mesh({"crashing.yaml": document([account, crashing])})
    with leaving_nothing(mesh):
        started = mesh.troth("up", "--detach", str(mesh.directory), check=False)
        assert started.returncode == 1
        assert "not ready" in started.stderr
        assert "`troth logs finance/crashing` shows what it wrote" in started.stderr

        def left() -> list[str]:
            shown = mesh.troth("status", check=False).stdout
            seconds = re.findall(r"started again in (\d+) s", shown)
            assert not seconds or "CrashLoopBackOff" in shown
            return seconds

        eventually(lambda: set(left()) - {"1"}, what="more than a second to wait")
        eventually(lambda: left() == ["1"], what="the last second of it")
        mesh.troth("down", "--now")


def test_kinds_that_are_not_used_are_named_once(make_mesh: MakeMesh) -> None:
    metadata = {"namespace": "finance"}
    ingress = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress"}
    two = [{**ingress, "metadata": {**metadata, "name": name}} for name in ("one", "two")]
    mesh = make_mesh({**ONE_POD, "ingress.yaml": document(two)})
    started = mesh.troth("up", "--detach", str(mesh.directory))
    with contextlib.ExitStack() as ended:
        ended.callback(mesh.troth, "down")
        assert started.stderr.count("Ingress.networking.k8s.io") == 1
        assert mesh.status()["ignored"] == {"Ingress.networking.k8s.io": 2}


@pytest.fixture(scope="module")
def three_pods(shared_host: Host) -> Iterator[Mesh]:
    """A mesh of three pods that has just said that it is ready."""
    with Mesh(shared_host, THREE_PODS) as mesh:
        yield mesh


def test_a_detached_mesh_serves_as_soon_as_it_says_that_it_is_ready(three_pods: Mesh) -> None:
    assert three_pods.fetch("finance/web", "http://payments:8080/") == "paid\n"
    assert len(three_pods.status()["pods"]) == 3


def test_a_container_that_has_written_nothing_has_an_empty_log(three_pods: Mesh) -> None:
    assert not three_pods.troth("logs", "legacy/cron").stdout


def test_the_state_directory_is_open_to_nobody_else_and_holds_no_key(three_pods: Mesh) -> None:
    wait_serving(three_pods)
    open_to_others = [
        f"{stat.filemode(path.lstat().st_mode)} {path}"
        for path in (three_pods.state, *three_pods.state.rglob("*"))
        if path.lstat().st_mode & 0o077
    ]
    # The namespaces' mount points are the kernel's, and pods must be able to read three files.
    assert [
        line
        for line in open_to_others
        if not line.endswith(("/hosts", "/resolv.conf", "/nsswitch.conf")) and "/netns/" not in line
    ] == []
    files = [path for path in three_pods.state.rglob("*") if path.is_file()]
    assert not [path for path in files if b"PRIVATE KEY" in path.read_bytes()]


def test_a_plain_user_has_a_whole_mesh(make_mesh: MakeMesh) -> None:
    with make_mesh(THREE_PODS, plain=True) as mesh:
        wait_serving(mesh)
        assert mesh.fetch("finance/web", "http://web:8080/") == "web shop: paid\n"
        assert mesh.fetch("legacy/cron", "http://payments.finance:8080/") == "paid\n"
        mesh.write("policy.yaml", document([policy("finance/default", "STRICT")]))
        eventually(lambda: mesh.pod("finance/payments")["mode"] == "STRICT", what="STRICT")
        eventually(
            lambda: mesh.fetch("legacy/cron", "http://payments.finance:8080/") is None,
            what="cron's refusal",
        )
        assert mesh.fetch("finance/web", "http://web:8080/") == "web shop: paid\n"
        mesh.event(source="legacy/cron", outcome="refused", reason="plaintext_to_strict")
        mesh.event(source="finance/web-0", destination="finance/payments-0", outcome="accepted")
        assert "GET / HTTP" in mesh.troth("logs", "finance/web").stdout


def test_the_tools_are_found_although_the_path_lacks_sbin(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(ONE_POD, plain=True)
    mesh.environment["PATH"] = "/usr/bin:/bin"
    with mesh:
        assert mesh.status()["ready"]
