"""An object that can't be read is refused by itself, whatever list or watch it came with."""

from __future__ import annotations

import importlib
import json
import pkgutil
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

import troth
from troth.cluster.manifests import resource_of
from troth.controller import objects
from troth.kube.resource import Resource
from troth.manifests.entrances import ENTRANCES

PACKAGES = ("agent", "check", "cluster", "controller", "kube", "reviews")


def followed() -> dict[str, Resource[Any]]:
    """All that is listed or watched."""
    found: dict[str, Resource[Any]] = {
        "policies": objects.policies(),
        "secrets": objects.secret_versions("troth-system"),
        "reports": objects.reports("troth-system"),
    }
    for each in pkgutil.walk_packages(troth.__path__, "troth."):
        if each.name.split(".")[1] in PACKAGES and not each.name.endswith("__main__"):
            for name, value in vars(importlib.import_module(each.name)).items():
                if isinstance(value, Resource):
                    found[f"{value} as {name}"] = value
    kinds = ("Namespace", "PeerAuthentication", "Deployment", "Job", "Pod", "Service", *ENTRANCES)
    return found | {f"{kind} as a manifest": resource_of(kind) for kind in kinds}


RESOURCES = followed()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
ODD = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("spec", "status", "data", "apiVersion", "kind", "webhooks", "subsets", "endpoints"), JSON
    ),
)
METADATA = st.fixed_dictionaries(
    {"name": st.just("troth-node-a")},
    optional=dict.fromkeys(
        ("labels", "annotations", "ownerReferences", "creationTimestamp", "deletionTimestamp"), JSON
    ),
)


def test_there_is_a_lot_that_is_followed() -> None:
    assert len(RESOURCES) > 30


@given(name=st.sampled_from(sorted(RESOURCES)), odd=ODD, metadata=METADATA)
def test_an_odd_object_costs_only_itself(
    name: str, odd: dict[str, Any], metadata: dict[str, Any]
) -> None:
    text = json.dumps({**odd, "metadata": metadata}).encode()
    assert RESOURCES[name].read(msgspec.Raw(text)).key == "troth-node-a"


def test_an_object_that_is_refused_is_named() -> None:
    text = json.dumps({"metadata": {"name": "a", "namespace": "b", "labels": 1}}).encode()
    items = [resource.read(msgspec.Raw(text)) for resource in RESOURCES.values()]
    refused = [item for item in items if item.is_refused]
    assert len(refused) > 30  # the others look at no labels
    assert all(item.value is None for item in refused)
    assert all(" b/a" in problem.subject for item in refused for problem in item.problems)


def test_an_object_nested_too_deep_costs_only_itself() -> None:
    depths = '{"a":' * 5_000 + "1" + "}" * 5_000
    text = f'{{"metadata":{{"name":"x","managedFields":{depths}}},"spec":{depths}}}'.encode()
    for resource in RESOURCES.values():
        assert resource.read(msgspec.Raw(text)).key == "x"
