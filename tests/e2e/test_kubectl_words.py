"""The commands about pods do what kubectl's of the same name do."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import TROTH, Host, Mesh, eventually

from troth.cli.up import kustomized
from troth.errors import EnvironmentLackError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEB = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {troth.dev/mesh: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: front, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      initContainers:
      - {name: first, command: [sh, -c, "echo first one; echo first two"]}
      containers:
      - name: web
        command:
        - sh
        - -c
        - cd /tmp; hostname >name; exec python3 -m http.server
        readinessProbe: {tcpSocket: {port: 8000}}
---
apiVersion: v1
kind: Pod
metadata: {name: flaky, namespace: shop}
spec:
  containers:
  - name: app
    command: [sh, -c, "test -e /kept/x && exec sleep infinity; touch /kept/x; echo of old; exit 3"]
    volumeMounts: [{name: kept, mountPath: /kept}]
  volumes: [{name: kept, emptyDir: {}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: work, namespace: shop}
spec:
  template:
    spec: {restartPolicy: Never, containers: [{name: app, command: [echo, worked]}]}
"""


@pytest.fixture(scope="module", params=["root", "plain"])
def shop(shared_host: Host, request: pytest.FixtureRequest) -> Iterator[Mesh]:
    made = Mesh(shared_host, {"web.yaml": WEB}, plain=request.param == "plain")
    try:  # one container ends at first, of which a slow machine may say that it isn't ready
        made.troth("up", "--detach", str(made.directory), check=False)
        eventually(lambda: made.pod("shop/flaky")["ready"], what="the second start")
        made.wait_ready()
        yield made
    finally:
        made.__exit__()


def _words(text: str) -> str:
    return " ".join(text.split())


def test_a_namespace_may_stand_apart_as_with_kubectl(shop: Mesh) -> None:
    for name in (("shop/web",), ("-n", "shop", "web"), ("-n", "shop", "deploy/web")):
        said = shop.troth("exec", *name, "--", "cat", "/tmp/name")  # noqa: S108 - the container's own
        assert said.stdout == "web-0\n"


def test_exec_passes_standard_input_on(shop: Mesh) -> None:
    said = shop.troth("exec", "-i", "-n", "shop", "web-0", "-c", "web", "--", "cat", input="said")
    assert said.stdout == "said"


def test_exec_in_a_terminal_runs_in_a_terminal(shop: Mesh) -> None:
    ours, theirs = pty.openpty()
    try:
        asked = shop.host.start(
            *(TROTH, "exec", "-it", "shop/web", "--", "test", "-t", "0"),
            plain=shop.plain,
            env=shop.environment,
            stdin=theirs,
        )
        assert asked.wait() == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_logs_may_be_of_an_init_container_or_of_the_last_lines(shop: Mesh) -> None:
    assert shop.troth("logs", "shop/web", "-c", "first").stdout == "first one\nfirst two\n"
    assert shop.troth("logs", "shop/web", "-c", "first", "--tail=1").stdout == "first two\n"
    assert shop.troth("logs", "shop/web", "-c", "first", "--tail", "0").stdout == ""


def test_logs_are_of_the_last_run_and_with_previous_of_the_one_before(shop: Mesh) -> None:
    assert shop.troth("logs", "shop/flaky").stdout == ""
    assert shop.troth("logs", "--previous", "shop/flaky").stdout == "of old\n"
    never = shop.troth("logs", "--previous", "shop/web", check=False)
    assert never.returncode == 1
    assert "not been started before" in _words(never.stderr)


def test_logs_of_a_job_that_is_done_are_there(shop: Mesh) -> None:
    assert shop.troth("wait", "shop/work", "--for=condition=complete").returncode == 0
    assert shop.troth("logs", "shop/work").stdout == "worked\n"


@pytest.mark.parametrize(
    ("name", "port"),
    [("shop/web-0", ":8000"), ("shop/web", ":8000"), ("shop/front", ":80")],
    ids=["pod", "workload", "service"],
)
def test_a_port_of_this_machine_leads_to_one_of_a_pod(shop: Mesh, name: str, port: str) -> None:
    forwarding = shop.host.start(
        *(TROTH, "port-forward", name, port),
        plain=shop.plain,
        env=shop.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    with forwarding:
        try:
            assert forwarding.stdout is not None
            line = forwarding.stdout.readline()
            assert line.startswith("Forwarding from 127.0.0.1:")
            local = line.split()[2]
            assert line.split()[-1] == "8000"
            assert shop.host.run("curl", "-sS", f"http://{local}/name").stdout == "web-0\n"
        finally:
            forwarding.kill()


def test_a_restart_makes_other_pods_of_the_same_name(shop: Mesh) -> None:
    before = shop.pod("shop/web-0")["uid"]
    assert shop.troth("restart", "shop/web").stdout == "shop/web-0 restarted\n"
    eventually(lambda: shop.pod("shop/web-0")["uid"] != before, what="another pod")
    assert shop.troth("wait", "-n", "shop", "web", "--for", "available").returncode == 0
    refused = shop.troth("restart", "shop/work", check=False)
    assert "is a Job's" in _words(refused.stderr)


def test_a_workload_is_scaled_until_its_manifest_says_another_number(shop: Mesh) -> None:
    assert shop.troth("scale", "shop/web", "--replicas=2").stdout == "Deployment shop/web scaled\n"
    shop.troth("wait", "shop/web-1")
    shop.write("web.yaml", f"{WEB}\n# the same\n")
    shop.troth("wait", "shop/web-1")
    shop.write("web.yaml", WEB.replace("spec:\n  selector", "spec:\n  replicas: 3\n  selector"))
    shop.troth("wait", "shop/web-2")
    shop.write("web.yaml", WEB)
    shop.troth("scale", "shop/web", "--replicas=1")
    assert shop.troth("wait", "shop/web-1", "--for=delete").returncode == 0
    refused = shop.troth("scale", "shop/flaky", "--replicas=2", check=False)
    assert "no workload that can be scaled is called 'shop/flaky'" in _words(refused.stderr)


def test_waiting_ends_when_its_time_is_over(shop: Mesh) -> None:
    late = shop.troth("wait", "shop/web", "--for=delete", "--timeout=0s", check=False)
    assert (late.returncode, late.stderr) == (
        1,
        "timed out waiting for shop/web to be deleted\n",
    )
    wrong = shop.troth("wait", "shop/web", "--for=redy", check=False)
    assert (wrong.returncode, "ready" in wrong.stderr) == (2, True)


def test_a_pods_description_has_all_that_there_is_to_say(shop: Mesh) -> None:
    text = shop.troth("describe", "shop/web").stdout
    for part in (
        "Identity:  spiffe://cluster.local/ns/shop/sa/default",
        "Services:  shop/front",
        "first",
        "pod shop/web-0: starting",
    ):
        assert part in text
    told: dict[str, Any] = json.loads(shop.troth("describe", "shop/web", "-o", "json").stdout)
    assert told["schema"] == "troth/pod/v1"
    assert [each["name"] for each in told["init_containers"]] == ["first"]


@pytest.mark.parametrize("plain", [False, True], ids=["root", "plain"])
def test_manifests_may_come_from_standard_input(host: Host, *, plain: bool) -> None:
    mesh = Mesh(host, {}, plain=plain)
    try:
        mesh.troth("up", "-d", "-f", "-", input=WEB, check=False)
        eventually(lambda: mesh.pod("shop/web-0")["ready"], what="readiness")
    finally:
        mesh.__exit__()


def test_a_kustomization_is_what_kustomize_makes_of_it(host: Host) -> None:
    mesh = Mesh(host, {"web.yaml": WEB})
    tool = mesh.home / "bin/kustomize"
    tool.parent.mkdir()
    program = "import sys\nprint(open(sys.argv[2] + '/web.yaml').read())\n"
    tool.write_text(f"#!{sys.executable}\n{program}")
    tool.chmod(0o755)
    mesh.environment["PATH"] = f"{tool.parent}:{mesh.environment['PATH']}"
    try:
        mesh.troth("up", "-d", "-k", str(mesh.directory), check=False)
        eventually(lambda: mesh.pod("shop/web-0")["ready"], what="readiness")
    finally:
        mesh.__exit__()


def test_a_kustomization_without_kustomize_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentLackError, match="neither kustomize nor kubectl"):
        kustomized(tmp_path)
