"""Edits of the manifests while everything runs, and what they do to open connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import Mesh, eventually
from tests.e2e.manifests import deployment, document, namespace, policy, server, service
from tests.e2e.policies import FILE, Events, apply, wait_for

if TYPE_CHECKING:
    from tests.e2e.client import Client, Streams

pytestmark = pytest.mark.e2e

CUT_SECONDS = 2 * 3
"""The promise is 2 s; the machine may be busy."""

MANIFESTS = document(
    [
        namespace("finance", mesh=True),
        namespace("legacy", mesh=False),
        *server("finance/web"),
        *server("finance/payments", "http:8080", "echo:7000", "echo:7001"),
        *server("legacy/cron"),
        service("finance/payments", 8080, 7000, 7001),
    ]
)


@pytest.fixture(scope="module")
def manifests() -> dict[str, str]:
    return {"mesh.yaml": MANIFESTS}


def set_mode(mesh: Mesh, mode: str) -> None:
    apply(mesh, policy("finance/default", mode), modes={"finance/payments": mode})


def go_on(*groups: Streams) -> None:
    """See that connections are well, by their having done more work a moment later."""
    for streams in groups:
        before = streams.rounds
        eventually(
            lambda streams=streams, before=before: all(  # type: ignore[misc]  # mypy can't type defaults
                now > earlier for now, earlier in zip(streams.rounds, before, strict=True)
            ),
            what=f"progress beyond {before} ({streams.errors()})",
        )


def test_strict_on_an_edit_closes_plaintext_connections_and_no_tunnels(
    mesh: Mesh, web: Client, cron: Client
) -> None:
    set_mode(mesh, "PERMISSIVE")
    tunnels = web.streams("payments", 7000, 5)
    plain = cron.streams("payments.finance", 7000, 3)
    go_on(tunnels, plain)
    mesh.write(FILE, document([policy("finance/default", "STRICT")]))
    assert all(plain.errors(within=CUT_SECONDS)), "a plaintext connection lives on"
    assert cron.get("payments.finance", 8080).cut
    go_on(tunnels)
    set_mode(mesh, "PERMISSIVE")
    assert cron.get("payments.finance", 8080).body == "payments 8080 /"
    go_on(tunnels)
    assert not any(tunnels.stop())


def test_a_port_that_is_the_exception_keeps_its_plaintext_connections(
    mesh: Mesh, cron: Client
) -> None:
    def guard(other: str) -> dict[str, Any]:
        return policy(
            "finance/guard", other, selector={"app": "payments"}, ports={7001: "PERMISSIVE"}
        )

    apply(mesh, guard("PERMISSIVE"), modes={"finance/payments:7000": "PERMISSIVE by finance/guard"})
    cut, kept = cron.streams("payments.finance", 7000), cron.streams("payments.finance", 7001, 3)
    go_on(cut, kept)
    apply(mesh, guard("STRICT"), modes={"finance/payments:7000": "STRICT by finance/guard"})
    assert all(cut.errors(within=CUT_SECONDS))
    go_on(kept)
    assert not any(kept.stop())


def test_a_client_of_the_mesh_moves_between_plaintext_and_the_tunnel(
    mesh: Mesh, web: Client
) -> None:
    set_mode(mesh, "DISABLE")
    plain = web.streams("payments", 7000)
    set_mode(mesh, "PERMISSIVE")
    go_on(plain)  # allowed as before, so nobody cuts it
    events = Events(mesh)
    tunnel = web.streams("payments", 7000)
    assert events.one(source="finance/web", port=7000)["outcome"] == "accepted"
    set_mode(mesh, "STRICT")
    assert all(plain.errors(within=CUT_SECONDS))
    set_mode(mesh, "DISABLE")
    go_on(tunnel)
    events = Events(mesh)
    assert web.get("payments", 8080).body == "payments 8080 /"
    assert events.one(source="finance/web", port=8080)["outcome"] == "plaintext"
    assert not any(tunnel.stop())


def test_a_deleted_policy_is_in_force_no_more(mesh: Mesh, cron: Client) -> None:
    set_mode(mesh, "STRICT")
    assert cron.get("payments.finance", 8080).cut
    mesh.delete(FILE)
    wait_for(mesh, {"finance/payments": "PERMISSIVE by None"})
    assert cron.get("payments.finance", 8080).body == "payments 8080 /"


def test_a_broken_file_leaves_the_last_good_state_and_is_shown(mesh: Mesh, cron: Client) -> None:
    set_mode(mesh, "STRICT")
    mesh.write(FILE, document([policy("finance/default", "PERMISIVE")]))
    problem = eventually(lambda: mesh.status()["problems"], what="a problem")[0]
    assert problem["location"]["file"].endswith(FILE)
    assert (problem["subject"], problem["path"]) == (
        "PeerAuthentication finance/default",
        "spec.mtls.mode",
    )
    text = mesh.troth("status", check=False).stdout
    assert "PERMISIVE" in text
    assert cron.get("payments.finance", 8080).cut
    set_mode(mesh, "PERMISSIVE")
    assert mesh.status()["problems"] == []
    assert cron.get("payments.finance", 8080).body == "payments 8080 /"


def test_one_broken_document_does_not_hold_up_the_others(mesh: Mesh, cron: Client) -> None:
    set_mode(mesh, "PERMISSIVE")
    broken = document([policy("finance/guard", "NONSENSE", selector={"app": "payments"})])
    mesh.write(FILE, f"{broken}---\n{document([policy('finance/default', 'STRICT')])}")
    wait_for(mesh, {"finance/payments": "STRICT by finance/default"})
    assert cron.get("payments.finance", 8080).cut
    set_mode(mesh, "PERMISSIVE")


def test_a_label_captures_running_pods_and_its_removal_releases_them(
    mesh: Mesh, web: Client, cron: Client
) -> None:
    pods = [*server("later/app", "http:8080", "echo:7000"), service("later/app", 8080, 7000)]

    def label(*, in_mesh: bool) -> None:
        content = [namespace("later", mesh=in_mesh), *pods, policy("later/default", "STRICT")]
        mesh.write("later.yaml", document(content))

    def process() -> int:
        pid: int = mesh.pod("later/app")["containers"][0]["pid"]
        return pid

    label(in_mesh=False)
    wait_pods(mesh, "later/app", 1)  # an unknown name's lookup could take long
    assert web.get("app.later", 8080).body == "app 8080 /"
    pid, before = process(), cron.streams("app.later", 7000)
    go_on(before)
    assert cron.get("app.later", 8080).body == "app 8080 /"

    label(in_mesh=True)
    wait_for(mesh, {"later/app": "STRICT by later/default"})
    events = Events(mesh)
    assert web.get("app.later", 8080).body == "app 8080 /"
    assert events.one(destination="later/app", port=8080)["outcome"] == "accepted"
    assert cron.get("app.later", 8080).cut
    assert process() == pid
    go_on(before)  # older than the capture, so not under its policy

    label(in_mesh=False)
    eventually(lambda: not mesh.pod("later/app")["captured"], what="the release")
    assert cron.get("app.later", 8080).body == "app 8080 /"
    assert web.get("app.later", 8080).body == "app 8080 /"
    assert process() == pid
    go_on(before)
    assert not any(before.stop())
    mesh.delete("later.yaml")


def test_replicas_come_and_go(mesh: Mesh, web: Client) -> None:
    def scale(replicas: int) -> None:
        content = [
            *deployment("finance/shop", "http:8080", replicas=replicas),
            service("finance/shop", 8080),
        ]
        mesh.write("shop.yaml", document(content))
        wait_pods(mesh, "finance/shop", replicas)

    scale(1)
    first = mesh.pod("finance/shop-0")
    assert web.get("shop", 8080).body == "shop 8080 /"
    scale(3)
    events = Events(mesh)
    for _ in range(40):
        assert web.get("shop", 8080).body == "shop 8080 /"
    eventually(lambda: len(reached(events)) == 3, what="all replicas' use")
    scale(1)
    assert mesh.pod("finance/shop-0")["uid"] == first["uid"]
    for _ in range(10):
        assert web.get("shop", 8080).body == "shop 8080 /"
    eventually(
        lambda: (
            len(mesh.on_node("ls", str(mesh.state / "netns")).stdout.split())
            == len(mesh.status()["pods"])
        ),
        what="the removal of the others' namespaces",
    )


def test_an_edit_of_the_template_replaces_the_pod(mesh: Mesh, web: Client) -> None:
    def set_version(version: str) -> None:
        content = [*deployment("finance/desk", "http:8080", version=version)]
        mesh.write("desk.yaml", document([*content, service("finance/desk", 8080)]))

    set_version("1")
    wait_pods(mesh, "finance/desk", 1)
    old = mesh.pod("finance/desk")
    set_version("2")
    eventually(lambda: mesh.pod("finance/desk")["uid"] != old["uid"], what="another pod")
    wait_pods(mesh, "finance/desk", 1)
    new = mesh.pod("finance/desk")
    assert new["identity"] == old["identity"]
    assert "VERSION=2" in mesh.exec("finance/desk", "env").stdout
    assert web.get("desk", 8080).body == "desk 8080 /"


def wait_pods(mesh: Mesh, workload: str, count: int) -> None:
    """Wait until so many pods of the workload are ready, and Envoy knows."""

    def complete() -> bool:
        status = mesh.status()
        pods = [pod for pod in status["pods"] if pod["workload"] == workload]
        return status["ready"] and len(pods) == count and all(pod["ready"] for pod in pods)

    eventually(complete, what=f"{count} pods of {workload}")


def reached(events: Events) -> set[str]:
    """Which replicas of the shop have had connections."""
    found = {event["destination"] for event in events.all()}
    return {pod for pod in found if pod and pod.startswith("finance/shop-")}
