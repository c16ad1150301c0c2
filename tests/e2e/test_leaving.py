"""A namespace that leaves the mesh and comes back, and the connections that are open meanwhile."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from tests.e2e.client import PROGRAMS
from tests.e2e.harness import PYTHON, Mesh, eventually
from tests.e2e.manifests import document, namespace, policy, server, service
from tests.e2e.policies import clients

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.client import Client, Streams

pytestmark = pytest.mark.e2e

FILE = "label.yaml"
ROUNDS = 2
TUNNELLED = (
    ("shop/web", "app.other:8080"),
    ("shop/web", "app.shop:8080"),
    ("other/web", "app.shop:8080"),
)
"""Who calls whom all the time, by the tunnel while namespace shop is in the mesh."""


@pytest.fixture(scope="module")
def manifests() -> dict[str, str]:
    servers = [
        each
        for name in ("shop/app", "other/app", "legacy/app")
        for each in (*server(name, "http:8080", "echo:7000"), service(name, 8080, 7000))
    ]
    objects = [
        namespace("other", mesh=True),
        namespace("legacy", mesh=False),
        *servers,
        *(each for name in ("shop/web", "other/web", "legacy/web") for each in server(name)),
    ]
    return {"mesh.yaml": document(objects), FILE: document([namespace("shop", mesh=True)])}


def label(mesh: Mesh, *, in_mesh: bool, mode: str) -> None:
    mesh.write(
        FILE,
        document([namespace("shop", mesh=in_mesh), policy("shop/default", mode)]),
    )
    eventually(
        lambda: all(
            pod["captured"] is in_mesh
            for pod in mesh.status()["pods"]
            if pod["namespace"] == "shop"
        ),
        what=f"in_mesh={in_mesh}",
    )


def apps(mesh: Mesh) -> dict[str, list[str]]:
    """Where the app of each namespace is found: its service, and its addresses."""
    return {
        pod["namespace"]: [f"app.{pod['namespace']}", *pod["addresses"]]
        for pod in mesh.status()["pods"]
        if pod["name"] == "app"
    }


def open_all(
    hosts: dict[str, list[str]], web: dict[str, Client], *, strict: bool
) -> dict[str, Streams]:
    """Connections into the namespace, out of it and inside it, by service and by address."""
    ways = [("shop", "shop"), ("shop", "other"), ("shop", "legacy"), ("other", "shop")]
    if not strict:
        ways.append(("legacy", "shop"))
    return {
        f"{source} to {host}": web[source].streams(host, 7000)
        for source, destination in ways
        for host in hosts[destination]
    }


def assert_all_go_on(opened: dict[str, Streams]) -> None:
    before = {what: each.rounds for what, each in opened.items()}
    for what, streams in opened.items():
        eventually(
            lambda: streams.rounds > before[what] or any(streams.errors()),  # noqa: B023 - used at once
            what=f"progress of {what}",
        )
        assert not any(streams.errors()), what


@pytest.mark.parametrize("mode", ["PERMISSIVE", "STRICT"])
def test_no_connection_ends_because_its_pod_leaves_the_mesh_or_comes_back(
    mesh: Mesh, mode: str
) -> None:
    strict = mode == "STRICT"
    with clients(mesh, "shop/web", "other/web", "legacy/web") as (shop, other, legacy):
        hosts = apps(mesh)
        web = {"shop": shop, "other": other, "legacy": legacy}
        opened: dict[str, Streams] = {}
        with contextlib.ExitStack() as loads:
            if not strict:
                loads.enter_context(load(mesh, "legacy/web", "app.shop:8080"))
            for web_pod, url in TUNNELLED:
                loads.enter_context(load(mesh, web_pod, url))
            for turn in range(ROUNDS):
                for in_mesh in (True, False):
                    label(mesh, in_mesh=in_mesh, mode=mode)
                    assert_all_go_on(opened)
                    new = open_all(hosts, web, strict=strict and in_mesh)
                    opened |= {f"{what}, {turn} {in_mesh}": each for what, each in new.items()}
        assert_all_go_on(opened)
        for each in opened.values():
            each.stop()


@contextlib.contextmanager
def load(mesh: Mesh, pod: str, url: str) -> Iterator[None]:
    """Requests all the time, of which none may fail."""
    process = mesh.start(pod, PYTHON, "-I", str(PROGRAMS / "load.py"), url, stdin=-1, stdout=-1)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    try:
        yield
    finally:
        said, _ = process.communicate()
    assert b'"failed": []' in said, said
