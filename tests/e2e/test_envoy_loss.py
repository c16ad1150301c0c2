"""Envoy dies: nothing may pass around it, and it has to be back soon."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from tests.e2e.harness import Mesh, eventually
from tests.e2e.manifests import document, namespace, policy, server, service
from tests.e2e.policies import apply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.client import Client

pytestmark = pytest.mark.e2e

BACK_SECONDS = 2 * 3
"""The promise is 2 s; the machine may be busy."""

MANIFESTS = document(
    [
        namespace("finance", mesh=True),
        namespace("legacy", mesh=False),
        *server("finance/web"),
        *server("finance/payments", "http:8080"),
        *server("legacy/cron", "http:8080"),
        service("finance/payments", 8080),
        service("legacy/cron", 8080),
    ]
)


@pytest.fixture(scope="module")
def manifests() -> dict[str, str]:
    return {"mesh.yaml": MANIFESTS}


@contextlib.contextmanager
def without_envoy(mesh: Mesh) -> Iterator[None]:
    """Kill Envoy, and keep the one who would start it again from noticing."""
    envoy = mesh.on_node("pidof", "envoy").stdout.strip()
    supervisor = mesh.on_node("ps", "-o", "ppid=", "-p", envoy).stdout.strip()
    mesh.on_node("kill", "-STOP", supervisor)
    try:
        mesh.on_node("kill", "-KILL", envoy)
        yield
    finally:
        mesh.on_node("kill", "-CONT", supervisor)


def virtual_ips(mesh: Mesh, service: str) -> set[str]:
    """What a service's name stands for."""
    listing = mesh.exec("finance/web", "getent", "ahosts", service, check=True).stdout
    return {line.split()[0] for line in listing.splitlines()}


@pytest.mark.parametrize("mode", ["PERMISSIVE", "STRICT", "DISABLE"])
def test_without_envoy_connections_are_refused_and_never_passed_around_it(
    mode: str, mesh: Mesh, web: Client, cron: Client
) -> None:
    apply(mesh, policy("finance/default", mode), modes={"finance/payments": mode})
    addresses = {name: mesh.pod(name)["addresses"] for name in ("finance/payments", "legacy/cron")}
    # Who starts Envoy answers the pods' DNS questions, too.
    services = {name: virtual_ips(mesh, name) for name in ("payments.finance", "cron.legacy")}
    with without_envoy(mesh):
        for host in (*addresses["finance/payments"], *services["payments.finance"]):
            for client in (web, cron):
                reply = client.get(host, 8080)
                assert reply.cut, (client.pod, host, reply)
        for host in (*addresses["legacy/cron"], *services["cron.legacy"]):
            reply = web.get(host, 8080)
            assert reply.cut, (host, reply)
    eventually(lambda: web.get("payments", 8080).body, seconds=BACK_SECONDS, what="Envoy's return")
    assert (cron.get("payments.finance", 8080).body is None) is (mode == "STRICT")
    assert web.get("cron.legacy", 8080).body == "cron 8080 /"


def test_envoy_is_back_soon_after_a_kill_and_is_told_all_it_knew(
    mesh: Mesh, web: Client, cron: Client
) -> None:
    apply(mesh, policy("finance/default", "STRICT"), modes={"finance/payments": "STRICT"})
    restarts = mesh.status()["envoy"]["restarts"]
    envoy = mesh.on_node("pidof", "envoy").stdout.strip()
    mesh.on_node("kill", "-KILL", envoy)
    eventually(
        lambda: web.get("payments", 8080).body == "payments 8080 /",
        seconds=BACK_SECONDS,
        what="Envoy's return",
    )
    assert cron.get("payments.finance", 8080).cut
    status = eventually(
        lambda: (now := mesh.status())["envoy"]["connected"] and now, what="its connection"
    )
    assert status["envoy"]["restarts"] == restarts + 1
    assert status["ready"]
