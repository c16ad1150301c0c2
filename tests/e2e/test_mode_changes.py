"""Changes of mode under load: no new connection between pods of the mesh is lost."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
from tests.e2e.calls import CHANGES, NONE, ROUND, Calls
from tests.e2e.harness import PYTHON, Mesh, eventually
from tests.e2e.manifests import document, namespace, policy, server, service
from tests.e2e.policies import FILE, apply

SECONDS_PER_CHANGE = 5

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300 + SECONDS_PER_CHANGE * CHANGES)]


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


def calls(mesh: Mesh, host: str, port: int = 8080) -> Calls:
    return Calls(partial(mesh.start, "finance/web", PYTHON, "-I"), host, port)


def test_the_round_goes_through_every_ordered_pair_of_modes() -> None:
    assert sorted(itertools.pairwise(ROUND)) == sorted(itertools.permutations(set(ROUND), 2))


def test_no_change_of_mode_loses_a_new_connection(mesh: Mesh) -> None:
    change(mesh, NONE)
    with calls(mesh, "payments") as going:
        for mode in itertools.islice(itertools.cycle(ROUND[1:]), CHANGES):
            change(mesh, mode)
            going.go_on()


def test_no_change_of_a_ports_mode_loses_a_new_connection(mesh: Mesh) -> None:
    change(mesh, "STRICT")
    with (
        calls(mesh, "payments", 8080) as changed,
        calls(mesh, "payments", 9090) as other,
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
    with calls(mesh, "app.later") as going:
        for mode in itertools.islice(itertools.cycle(("STRICT", "DISABLE")), CHANGES // 6):
            for in_mesh in (True, False):
                mesh.write(FILE, document([policy("istio-system/default", mode)]))
                label(in_mesh=in_mesh)
                going.go_on()
                eventually(
                    lambda wanted=in_mesh: mesh.pod("later/app")["captured"] is wanted,  # type: ignore[misc]  # bound at once
                    what=f"capture to be {in_mesh}",
                )
    mesh.delete("later.yaml")
