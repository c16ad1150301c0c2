from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from troth.errors import InputError
from troth.manifests.amend import amend, as_applied
from troth.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Callable

    from troth.manifests.collect import Manifests


def policy(name: str, mode: str, namespace: str = "finance") -> str:
    return (
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )


NAMESPACE = (
    "---\napiVersion: v1\nkind: Namespace\n"
    "metadata: {name: finance, labels: {troth.dev/mesh: enabled}}\n"
)
JOB = """\
---
apiVersion: batch/v1
kind: Job
metadata: {name: sweep, namespace: finance}
spec:
  template: {spec: {restartPolicy: Never, containers: [{name: main, image: app}]}}
"""


def modes(manifests: Manifests) -> dict[str, Mode]:
    return {key: each.mode for key, each in manifests.policies.items()}


def test_new_objects_are_added_and_take_the_place_of_equals(
    read: Callable[..., Manifests],
) -> None:
    current = read(policy("a", "STRICT") + policy("b", "STRICT"))
    new = read(policy("b", "DISABLE") + policy("c", "PERMISSIVE"))

    amended = amend(current, new=new)

    assert modes(amended) == {
        "finance/a": Mode.STRICT,
        "finance/b": Mode.DISABLE,
        "finance/c": Mode.PERMISSIVE,
    }
    assert modes(current) == {"finance/a": Mode.STRICT, "finance/b": Mode.STRICT}


@pytest.mark.parametrize(
    "name", ["PeerAuthentication/finance/a", "peerauthentication/finance/a"], ids=["Kind", "kind"]
)
def test_an_object_is_taken_out_by_name(read: Callable[..., Manifests], name: str) -> None:
    amended = amend(read(policy("a", "STRICT") + policy("b", "STRICT")), without=[name])

    assert modes(amended) == {"finance/b": Mode.STRICT}


def test_workloads_of_every_kind_can_be_taken_out(read: Callable[..., Manifests]) -> None:
    assert amend(read(JOB), without=["Job/finance/sweep"]).workloads == {}


def test_a_namespace_without_its_object_is_still_named_by_others(
    read: Callable[..., Manifests],
) -> None:
    amended = amend(read(NAMESPACE + policy("a", "STRICT")), without=["Namespace/finance"])

    assert not amended.namespaces["finance"].in_mesh


def test_a_replaced_object_takes_its_problems_along(read: Callable[..., Manifests]) -> None:
    current = read(policy("a", "strict") + policy("b", "strict"))

    amended = amend(current, new=read(policy("a", "STRICT")))

    assert modes(amended) == {"finance/a": Mode.STRICT}
    assert [each.subject for each in amended.problems] == ["PeerAuthentication finance/b"]


def test_a_refused_object_can_be_taken_out(read: Callable[..., Manifests]) -> None:
    amended = amend(read(policy("a", "strict")), without=["PeerAuthentication/finance/a"])

    assert amended.problems == ()
    assert amended.refused == frozenset()


def test_every_name_of_nothing_is_refused_at_once(read: Callable[..., Manifests]) -> None:
    with pytest.raises(InputError) as refused:
        amend(
            read(policy("default", "STRICT")),
            without=["PeerAuthentication/finance/defualt", "Pod/x/y"],
        )

    assert str(refused.value).splitlines() == [
        (
            "object PeerAuthentication/finance/defualt: isn't there; "
            "did you mean PeerAuthentication/finance/default?"
        ),
        "object Pod/x/y: isn't there; write KIND/NAMESPACE/NAME of an object that is given",
    ]


def test_a_policy_that_is_applied_keeps_its_age_and_a_new_one_is_the_youngest(
    read: Callable[..., Manifests],
) -> None:
    new = read(
        policy("a", "STRICT").replace("name: a", "name: a, creationTimestamp: 2001-01-01T00:00:00Z")
        + policy("b", "STRICT")
    )
    before, now = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
    applied = as_applied(new, {"finance/b": before}, now=now)
    assert {key: each.created for key, each in applied.policies.items()} == {
        "finance/a": now,
        "finance/b": before,
    }
