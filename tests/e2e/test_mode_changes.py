"""Changes of mode under load: no new connection between pods of the mesh is lost.

The short form runs with the other tests. ``TROTH_MODE_CHANGES=1000`` makes it the long one.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from typing import Any, Self

import pytest
from tests.e2e.client import PROGRAMS
from tests.e2e.harness import PYTHON, Mesh, eventually
from tests.e2e.manifests import document, namespace, policy, server, service
from tests.e2e.policies import FILE, apply

CHANGES = int(os.environ.get("TROTH_MODE_CHANGES", "24"))
SECONDS_PER_CHANGE = 5

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300 + SECONDS_PER_CHANGE * CHANGES)]

NONE = "none"
ROUND = (
    *(NONE, "PERMISSIVE", "STRICT", "DISABLE", NONE, "STRICT", NONE, "DISABLE"),
    *("STRICT", "PERMISSIVE", "DISABLE", "PERMISSIVE", NONE),
)
"""Every ordered pair of them, each once."""


@pytest.fixture(scope="module")
def manifests() -> dict[str, str]:
    objects = [
        namespace("finance", mesh=True),
        namespace("istio-system", mesh=False),
        *server("finance/web"),
        *server("finance/payments", "http:8080", "http:9090"),
        service("finance/payments", 8080, 9090),
    ]
    return {"mesh.yaml": document(objects)}


def change(mesh: Mesh, mode: str, port_mode: str = NONE) -> None:
    """Make these payments' only modes, of all ports and of 8080, and wait for them."""
    objects = []
    if mode != NONE:
        objects.append(policy("finance/default", mode))
    if port_mode != NONE:
        own = policy("finance/own", None, selector={"app": "payments"}, ports={8080: port_mode})
        objects.append(own)
    said = "PERMISSIVE by None" if mode == NONE else f"{mode} by finance/default"
    apply(mesh, *objects, modes={"finance/payments": said})


class Calls:
    """Calls of a server by new connections, several at a time, while the context lasts."""

    def __init__(self, mesh: Mesh, pod: str, host: str, port: int) -> None:
        self._mesh = mesh
        self._what = (pod, host, port)

    def __enter__(self) -> Self:
        pod, host, port = self._what
        self._process = self._mesh.start(
            pod,
            *(PYTHON, "-I", str(PROGRAMS / "callers.py"), host, str(port)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.go_on()
        return self

    def __exit__(self, *error: object) -> None:
        out, _ = self._process.communicate("")
        seen: dict[str, Any] = json.loads(out)
        if error == (None, None, None):
            assert seen["failed"] == [], f"{self._what}: {len(seen['failed'])} of {seen['count']}"

    def go_on(self) -> None:
        """Wait until there have been some more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "going on\n"


def test_the_round_goes_through_every_ordered_pair_of_modes() -> None:
    assert sorted(itertools.pairwise(ROUND)) == sorted(itertools.permutations(set(ROUND), 2))


def test_no_change_of_mode_loses_a_new_connection(mesh: Mesh) -> None:
    change(mesh, NONE)
    with Calls(mesh, "finance/web", "payments", 8080) as calls:
        for mode in itertools.islice(itertools.cycle(ROUND[1:]), CHANGES):
            change(mesh, mode)
            calls.go_on()


def test_no_change_of_a_ports_mode_loses_a_new_connection(mesh: Mesh) -> None:
    change(mesh, "STRICT")
    with (
        Calls(mesh, "finance/web", "payments", 8080) as changed,
        Calls(mesh, "finance/web", "payments", 9090) as other,
    ):
        for port_mode in itertools.islice(itertools.cycle(ROUND[1:]), CHANGES // 2):
            change(mesh, "STRICT", port_mode)
            changed.go_on()
            other.go_on()


def test_a_namespace_that_comes_and_goes_while_modes_change_loses_no_new_connection(
    mesh: Mesh,
) -> None:
    def label(*, in_mesh: bool) -> None:
        objects = [
            namespace("later", mesh=in_mesh),
            *server("later/app", "http:8080"),
            service("later/app", 8080),
        ]
        mesh.write("later.yaml", document(objects))

    change(mesh, NONE)
    label(in_mesh=False)
    eventually(
        lambda: mesh.fetch("finance/web", "http://app.later:8080/") is not None, what="an answer"
    )
    with Calls(mesh, "finance/web", "app.later", 8080) as calls:
        for mode in itertools.islice(itertools.cycle(("STRICT", "DISABLE")), CHANGES // 6):
            for in_mesh in (True, False):
                mesh.write(FILE, document([policy("istio-system/default", mode)]))
                label(in_mesh=in_mesh)
                calls.go_on()
                eventually(
                    lambda wanted=in_mesh: mesh.pod("later/app")["captured"] is wanted,  # type: ignore[misc]  # bound at once
                    what=f"capture to be {in_mesh}",
                )
    mesh.delete("later.yaml")
