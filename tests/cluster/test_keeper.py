"""However a cluster came to be as it is, its pods and services are those of its objects."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from troth.cluster.world import (
    ClusterPods,
    ClusterService,
    ClusterServices,
    EndpointSlice,
    NodeTopology,
    SliceEndpoint,
    pods_by_uid,
    resolve_services,
)
from troth.kube.reflector import Changes
from troth.mesh.model import Pod, Protocol, ServicePort

addresses = st.lists(
    st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]), max_size=2, unique=True
).map(tuple)
pods = st.builds(
    Pod,
    uid=st.sampled_from("12345"),
    namespace=st.just("shop"),
    name=st.just("pod"),
    node=st.sampled_from(["n1", "n2"]),
    addresses=addresses,
    terminating=st.booleans(),
    host_network=st.sampled_from([False, False, False, True]),
)
services = st.builds(
    ClusterService,
    namespace=st.just("shop"),
    name=st.just("web"),
    cluster_ips=st.sampled_from([(), ("10.96.0.1",)]),
    external_ips=st.sampled_from([(), ("192.0.2.1",)]),
    ports=st.sampled_from([(), (ServicePort(number=80, name="http"),)]),
    only_own_node=st.booleans(),
)
slices = st.builds(
    EndpointSlice,
    service=st.sampled_from(["shop/a", "shop/b"]),
    ports=st.sampled_from([{}, {("http", Protocol.TCP): 8080}]),
    endpoints=st.lists(
        st.builds(
            SliceEndpoint,
            address=st.sampled_from(["10.0.0.1", "10.0.0.2"]),
            node=st.sampled_from(["", "here", "there"]),
            ready=st.booleans(),
            for_zones=st.sampled_from([frozenset(), frozenset({"z1"})]),
        ),
        max_size=2,
    ).map(tuple),
)
nodes = st.builds(NodeTopology, name=st.just("here"), zone=st.sampled_from(["", "z1", "z2"]))


def edits(keys: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Batches of changes, by key; None deletes."""
    some = st.none() | values
    return st.lists(st.dictionaries(st.sampled_from(keys), some, max_size=3), max_size=8)


def apply(known: dict[str, Any], edit: dict[str, Any]) -> Changes[Any]:
    """Change ``known``; what a reflector would tell of it."""
    gone = {key for key, value in edit.items() if value is None and key in known}
    there = {key: value for key, value in edit.items() if value is not None}
    for key in gone:
        del known[key]
    known |= there
    return Changes(upserted=there, deleted=frozenset(gone))


@given(edits("abcd", pods))
def test_pods_and_their_addresses_are_those_of_all_objects(batches: list[dict[str, Any]]) -> None:
    kept, known = ClusterPods("n1"), dict[str, Pod]()
    for batch in batches:
        taken = {pod.uid for key, pod in known.items() if key not in batch}
        fresh = {}
        for key, pod in batch.items():
            # No two objects have the same UID.
            fresh[key] = None if pod is None or pod.uid in taken else pod
            taken |= {pod.uid} if pod is not None else set()
        kept.apply(apply(known, fresh))
        assert kept.by_uid == pods_by_uid(known.values(), node="n1")


@given(
    st.lists(
        st.tuples(st.just("service"), st.sampled_from("ab"), st.none() | services)
        | st.tuples(st.just("slice"), st.sampled_from("123"), st.none() | slices)
        | st.tuples(st.just("node"), st.none(), nodes),
        max_size=12,
    )
)
def test_services_have_the_endpoints_of_all_slices(steps: list[tuple[str, Any, Any]]) -> None:
    kept = ClusterServices()
    known: dict[str, ClusterService] = {}
    parts: dict[str, EndpointSlice] = {}
    node = NodeTopology()
    for kind, key, value in steps:
        match kind:
            case "service":
                named = value and msgspec.structs.replace(value, name=key)
                kept.apply_services(apply(known, {f"shop/{key}": named}))
            case "slice":
                kept.apply_slices(apply(parts, {key: value}))
            case _:
                node = value
                kept.move(node)
        ordered = [each for _, each in sorted(parts.items())]
        assert kept.by_key == resolve_services(known.values(), ordered, node)
