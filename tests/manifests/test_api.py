"""Every field of the API types that a local mesh reads is done, or said not to be."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from lightkube.models import apps_v1, batch_v1, core_v1

from troth.manifests.api import CONTROLLERS, TYPES, Use

_ROOTS = {
    "PodSpec": core_v1.PodSpec,
    "ServiceSpec": core_v1.ServiceSpec,
    "ReplicationControllerSpec": core_v1.ReplicationControllerSpec,
    "JobSpec": batch_v1.JobSpec,
    "CronJobSpec": batch_v1.CronJobSpec,
    "DeploymentSpec": apps_v1.DeploymentSpec,
    "StatefulSetSpec": apps_v1.StatefulSetSpec,
    "DaemonSetSpec": apps_v1.DaemonSetSpec,
    "ReplicaSetSpec": apps_v1.ReplicaSetSpec,
}
_ELSEWHERE = {"LabelSelector", "ObjectMeta", "PersistentVolumeClaim", "PodTemplateSpec"}
"""Types that have readers of their own, or nothing to be done about."""


def _fields(kind: type) -> dict[str, type | None]:
    """The fields of an API type, and the type of each that has fields, too."""

    def inner(hint: Any) -> type | None:
        if hasattr(hint, "__struct_fields__"):
            return typing.cast("type", hint)
        return next((found for each in typing.get_args(hint) if (found := inner(each))), None)

    hints = typing.get_type_hints(kind)
    return {name: inner(hints[name]) for name in kind.__struct_fields__}  # type: ignore[attr-defined]


def _reachable() -> dict[str, type]:
    """The types of all fields that are done, from the roots on."""
    found: dict[str, type] = {}
    left: list[type] = list(_ROOTS.values())
    while left:
        kind = left.pop()
        if kind.__name__ in found:
            continue
        found[kind.__name__] = kind
        uses = TYPES[kind.__name__].uses if kind.__name__ in TYPES else {}
        left += [
            inner
            for name, inner in _fields(kind).items()
            if inner and uses.get(name) is Use.DONE and inner.__name__ not in _ELSEWHERE
        ]
    return found


REACHABLE = _reachable()


@pytest.mark.parametrize("kind", sorted(REACHABLE))
def test_every_field_has_a_place_in_the_table(kind: str) -> None:
    assert kind in TYPES
    assert sorted(TYPES[kind].uses) == sorted(_fields(REACHABLE[kind]))


@pytest.mark.parametrize("kind", sorted(REACHABLE))
def test_the_table_knows_the_type_of_each_field_that_is_done(kind: str) -> None:
    of = TYPES[kind]
    expected = {
        name: inner.__name__
        for name, inner in _fields(REACHABLE[kind]).items()
        if inner and of.uses[name] is Use.DONE and inner.__name__ not in _ELSEWHERE
    }
    assert {name: of.types.get(name) for name in expected} == expected


def test_every_controller_is_in_the_table() -> None:
    assert {f"{kind}Spec" for kind in CONTROLLERS} <= _ROOTS.keys()


def test_the_table_has_nothing_that_is_nowhere() -> None:
    assert TYPES.keys() - REACHABLE.keys() <= {"TCPSocketAction"}
