"""Who is in the mesh."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.identity.spiffe import TrustDomain
from troth.mesh.model import MESH_LABEL, Namespace, Pod
from troth.mesh.world import World, membership


@pytest.mark.parametrize(
    ("of_namespace", "of_pod", "in_mesh", "why"),
    [
        pytest.param(None, None, False, "not labelled", id="nobody says anything"),
        pytest.param("enabled", None, True, "is labelled", id="the namespace opts in"),
        pytest.param("enabled", "disabled", False, "the pod is labelled", id="the pod opts out"),
        pytest.param("enabled", "enabled", True, "is labelled", id="both say yes"),
        pytest.param(None, "enabled", False, "not labelled", id="a pod can't opt in by itself"),
        pytest.param("disabled", None, False, "not labelled", id="the namespace says no"),
        pytest.param("Enabled", None, False, "not labelled", id="case counts in the namespace"),
        pytest.param(
            "true", None, False, "not labelled", id="a word of its own counts for nothing"
        ),
        pytest.param("enabled", "Disabled", True, "is labelled", id="case counts in the pod"),
        pytest.param("enabled", "", True, "is labelled", id="an empty label says nothing"),
    ],
)
def test_a_pod_is_in_the_mesh_when_its_namespace_says_so_and_it_does_not_object(
    *, of_namespace: str | None, of_pod: str | None, in_mesh: bool, why: str
) -> None:
    namespace = Namespace(name="shop", labels=labels(of_namespace))
    found = membership(namespace, labels(of_pod))
    assert found.in_mesh is in_mesh
    assert why in found.why


def labels(value: str | None) -> dict[str, str]:
    return {} if value is None else {MESH_LABEL: value, "app": "web"}


def test_a_pod_of_an_unknown_namespace_is_not_in_the_mesh() -> None:
    world = World(trust_domain=TrustDomain.parse("cluster.local"))
    found = world.membership(Pod(uid="1", namespace="nowhere", name="web"))
    assert not found.in_mesh
    assert "namespace nowhere" in found.why


def test_a_static_pod_is_not_in_the_mesh_as_it_has_no_service_account() -> None:
    world = World(
        trust_domain=TrustDomain.parse("cluster.local"),
        namespaces={"shop": Namespace(name="shop", labels=labels("enabled"))},
    )
    found = world.membership(Pod(uid="1", namespace="shop", name="web", kubelet_uid="2"))
    assert not found.in_mesh
    assert "static" in found.why


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20)))
def test_no_other_label_puts_a_namespace_in_the_mesh(others: dict[str, str]) -> None:
    others.pop(MESH_LABEL, None)
    assert not membership(Namespace(name="shop", labels=others), {}).in_mesh
