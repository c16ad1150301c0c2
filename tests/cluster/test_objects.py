"""Objects as an API server sends them: what they mean, and what is wrong with them."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.cluster.objects import (
    read_endpoint_slice,
    read_namespace,
    read_node,
    read_pod,
    read_policy,
    read_service,
)
from troth.cluster.world import (
    ClusterService,
    EndpointSlice,
    Family,
    NodeTopology,
    SliceEndpoint,
)
from troth.errors import PeerError, Severity
from troth.kube.resource import Item
from troth.kube.wire import decode, without_depths
from troth.mesh.model import ContainerPort, Namespace, Pod, PodPhase, Protocol, ServicePort
from troth.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Callable

READERS: dict[str, Callable[[msgspec.Raw], Item[Any]]] = {
    "namespace": read_namespace,
    "node": read_node,
    "pod": read_pod,
    "service": read_service,
    "endpoint slice": read_endpoint_slice,
    "policy": read_policy,
}


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Changes by dotted path."""
    value: dict[str, Any] = json.loads(json.dumps(base))
    for path, change in changes.items():
        *parents, last = path.split(".")
        at = value
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = change
    return value


POD = {
    "metadata": {
        "name": "web-5d4f-x",
        "namespace": "shop",
        "uid": "0b3c-1",
        "resourceVersion": "17",
        "labels": {"app": "web", "pod-template-hash": "5d4f"},
        "annotations": {
            "troth.dev/captured": "true",
            "troth.dev/captured-at": "10.0.0.5,fd00::5",
        },
        "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d4f", "controller": True}],
        "managedFields": [{"fieldsV1": {"f:a": {}}}],
    },
    "spec": {
        "nodeName": "n1",
        "serviceAccountName": "web",
        "containers": [{"name": "c", "ports": [{"containerPort": 8080, "name": "http"}]}],
        "initContainers": [
            {"name": "i", "ports": [{"containerPort": 1}]},
            {"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 9000}]},
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.5",
        "podIPs": [{"ip": "10.0.0.5"}, {"ip": "FD00:0::5"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "startTime": "2026-01-01T12:00:00Z",
    },
}


def pod(**changes: object) -> Item[Pod]:
    return read_pod(raw(merged(POD, {key.replace("__", "."): it for key, it in changes.items()})))


def value(item: Item[Pod]) -> Pod:
    assert item.problems == ()
    assert item.value is not None
    return item.value


def test_a_pod_is_read_whole() -> None:
    assert pod() == Item(
        key="shop/web-5d4f-x",
        uid="0b3c-1",
        version="17",
        value=Pod(
            uid="0b3c-1",
            namespace="shop",
            name="web-5d4f-x",
            labels={"app": "web", "pod-template-hash": "5d4f"},
            service_account="web",
            owner="web",
            node="n1",
            addresses=("10.0.0.5", "fd00::5"),
            ports=(ContainerPort(number=8080, name="http"), ContainerPort(number=9000)),
            captured=True,
            captured_at=("10.0.0.5", "fd00::5"),
            ready=True,
            phase=PodPhase.RUNNING,
            started=datetime(2026, 1, 1, 12, tzinfo=UTC),
        ),
    )


def test_a_pod_that_was_just_made_is_read() -> None:
    bare = {"metadata": {"name": "a", "namespace": "shop", "uid": "u"}, "spec": {}}
    assert value(read_pod(raw(bare))) == Pod(
        uid="u", namespace="shop", name="a", phase=PodPhase.PENDING
    )


@pytest.mark.parametrize(
    ("changes", "captured"),
    [
        pytest.param({}, True, id="annotated"),
        pytest.param({"metadata__annotations": None}, False, id="not annotated"),
        pytest.param(
            {"metadata__annotations": {"troth.dev/captured": "True"}}, False, id="other letters"
        ),
        pytest.param(
            {"metadata__annotations": {"troth.dev/captured-at": "10.0.0.5,fd00::5"}},
            False,
            id="addresses alone",
        ),
        pytest.param(
            {"metadata__annotations": {"troth.dev/captured": "true"}}, True, id="of an older agent"
        ),
        pytest.param({"status__podIPs": [{"ip": "10.0.0.6"}]}, False, id="of another sandbox"),
        pytest.param({"status__podIPs": None, "status__podIP": None}, False, id="no address yet"),
        pytest.param({"spec__hostNetwork": True}, False, id="host network"),
        pytest.param({"status__phase": "Succeeded"}, False, id="succeeded"),
        pytest.param({"status__phase": "Failed"}, False, id="failed"),
        pytest.param({"metadata__deletionTimestamp": "2026-01-01T12:00:00Z"}, True, id="ending"),
    ],
)
def test_a_pod_is_captured_if_its_node_says_so_and_it_can_be(
    *, changes: dict[str, Any], captured: bool
) -> None:
    assert value(pod(**changes)).captured is captured


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_has_no_address(phase: str) -> None:
    assert value(pod(status__phase=phase)).addresses == ()


def test_a_pod_being_deleted_is_terminating() -> None:
    assert value(pod(metadata__deletionTimestamp="2026-01-01T12:00:00Z")).terminating
    assert not value(pod()).terminating


@pytest.mark.parametrize(
    "conditions",
    [None, [], [{"type": "Ready", "status": "False"}], [{"type": "Initialized", "status": "True"}]],
)
def test_a_pod_is_ready_only_if_its_condition_says_so(conditions: object) -> None:
    assert not value(pod(status__conditions=conditions)).ready


def test_the_only_address_of_an_old_kubelet_will_do() -> None:
    assert value(pod(status__podIPs=None)).addresses == ("10.0.0.5",)


@pytest.mark.parametrize(
    ("owners", "owner"),
    [
        pytest.param(None, "", id="none"),
        pytest.param([{"kind": "ReplicaSet", "name": "web-5d4f"}], "", id="no controller"),
        pytest.param(
            [{"kind": "ReplicaSet", "name": "rs", "controller": True}], "rs", id="bare ReplicaSet"
        ),
        pytest.param(
            [{"kind": "StatefulSet", "name": "db-1", "controller": True}], "db-1", id="StatefulSet"
        ),
        pytest.param(
            [{"kind": "Job", "name": "backup-29012345", "controller": True}], "backup", id="CronJob"
        ),
        pytest.param([{"kind": "Job", "name": "load-7", "controller": True}], "load-7", id="Job"),
        pytest.param(
            [
                {"kind": "Thing", "name": "x", "controller": False},
                {"kind": "DaemonSet", "name": "logs", "controller": True},
            ],
            "logs",
            id="the one that controls it",
        ),
    ],
)
def test_the_owner_is_what_a_person_deployed(owners: object, owner: str) -> None:
    assert value(pod(metadata__ownerReferences=owners)).owner == owner


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param(
            {"status__podIPs": [{"ip": "10.0.0"}]},
            'status.podIPs[0].ip: is "10.0.0"; write an IP address',
            id="no address",
        ),
        pytest.param(
            {"status__podIPs": [{"ip": "fe80::1%eth0"}]},
            'status.podIPs[0].ip: is "fe80::1%eth0"; write an IP address',
            id="a scoped address",
        ),
        pytest.param(
            {"spec__serviceAccountName": "../admin"},
            "spec.serviceAccountName: is \"../admin\"; use a-z, 0-9, '-' and '.', each part "
            "beginning and ending with a letter or digit (RFC 1123 subdomain)",
            id="a service account with a path",
        ),
        pytest.param(
            {"metadata__uid": "a|app"},
            'metadata.uid: is "a|app"; let the API server choose it (RFC 4122 UUID)',
            id="a UID that is none",
        ),
        pytest.param(
            {"spec__containers": [{"ports": [{"containerPort": 65536}]}]},
            "spec.containers.ports.containerPort: is the number 65536; write a port, 1 to 65535",
            id="no port",
        ),
        pytest.param(
            {"spec__nodeName": 7},
            "spec.nodeName: is not what the API has there: Expected `str | null`, got `int`; "
            "write it as the API documents it",
            id="another type",
        ),
        pytest.param(
            {"status__phase": "Dancing"},
            "status.phase: is not what the API has there: Invalid enum value 'Dancing'; "
            "write it as the API documents it",
            id="another phase",
        ),
        pytest.param(
            {"spec": []},
            "spec: is not what the API has there: Expected `object`, got `array`; "
            "write it as the API documents it",
            id="no spec",
        ),
    ],
)
def test_a_pod_that_is_not_as_the_api_has_them_is_refused_by_itself(
    changes: dict[str, Any], problem: str
) -> None:
    item = pod(**changes)
    assert (item.value, item.is_refused, item.version) == (None, True, "17")
    assert [str(each) for each in item.problems] == [f"Pod shop/web-5d4f-x: {problem}"]


HASH = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        pytest.param({}, "", id="no mirror"),
        pytest.param(
            {"kubernetes.io/config.mirror": HASH, "kubernetes.io/config.hash": HASH},
            HASH,
            id="mirror",
        ),
        pytest.param({"kubernetes.io/config.hash": HASH}, "", id="a hash alone"),
        pytest.param(
            {
                "kubernetes.io/config.mirror": "x",
                "kubernetes.io/config.hash": "0a1b2c3d-1111-2222-3333-444455556666",
            },
            "",
            id="the UID of some other pod",
        ),
    ],
)
def test_a_static_pods_mirror_tells_the_uid_that_its_kubelet_knows(
    annotations: dict[str, str], expected: str
) -> None:
    read = pod(metadata__annotations=annotations).value
    assert read is not None
    assert read.kubelet_uid == expected


def test_namespaces_and_nodes_are_read() -> None:
    labels = {"troth.dev/mesh": "enabled", "topology.kubernetes.io/zone": "z1"}
    what = raw({"metadata": {"name": "a", "uid": "u", "labels": labels}})
    assert read_namespace(what).value == Namespace(name="a", labels=labels)
    assert read_node(what).value == NodeTopology(name="a", zone="z1")
    assert read_node(raw({"metadata": {"name": "a"}})).value == NodeTopology(name="a")


def service(**spec: object) -> ClusterService | None:
    item = read_service(raw({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec}))
    assert item.problems == ()
    return item.value


def test_a_service_is_read() -> None:
    ports = [{"port": 80, "name": "http", "targetPort": "http"}, {"port": 53, "protocol": "UDP"}]
    assert service(
        clusterIP="10.96.0.1", clusterIPs=["10.96.0.1", "fd00::1"], ports=ports, type="NodePort"
    ) == ClusterService(
        namespace="shop",
        name="web",
        cluster_ips=("10.96.0.1", "fd00::1"),
        ports=(ServicePort(number=80, name="http"), ServicePort(number=53, protocol=Protocol.UDP)),
    )


@pytest.mark.parametrize("spec", [{"clusterIP": "None", "clusterIPs": ["None"]}, {}])
def test_a_service_without_a_virtual_ip_has_none(spec: dict[str, object]) -> None:
    assert service(**spec) == ClusterService(namespace="shop", name="web")


def test_services_that_are_not_kube_proxys_are_of_no_interest() -> None:
    assert service(type="ExternalName", externalName="example.com") is None
    labels = {"service.kubernetes.io/service-proxy-name": "other"}
    metadata = {"name": "web", "namespace": "shop", "labels": labels}
    assert read_service(raw({"metadata": metadata, "spec": {}})).value is None


@pytest.mark.parametrize(
    ("affinity", "sticks"), [(None, False), ("None", False), ("ClientIP", True)], ids=str
)
def test_session_affinity_is_read(*, affinity: str | None, sticks: bool) -> None:
    found = service(sessionAffinity=affinity)
    assert found is not None
    assert found.client_ip_affinity is sticks


@pytest.mark.parametrize(
    ("policy", "only"), [(None, False), ("Cluster", False), ("Local", True)], ids=str
)
def test_the_internal_traffic_policy_is_read(*, policy: str | None, only: bool) -> None:
    found = service(internalTrafficPolicy=policy)
    assert found is not None
    assert found.only_own_node is only


def with_balancer(*ingress: dict[str, str], **spec: object) -> ClusterService:
    status = {"loadBalancer": {"ingress": list(ingress)}}
    metadata = {"name": "web", "namespace": "shop"}
    item = read_service(raw({"metadata": metadata, "spec": spec, "status": status}))
    assert item.value is not None
    return item.value


def test_external_ips_and_a_load_balancers_are_read() -> None:
    found = with_balancer(
        {"ip": "192.0.2.1"},
        {"ip": "192.0.2.2", "ipMode": "VIP"},
        {"ip": "192.0.2.3", "ipMode": "Proxy"},
        {"hostname": "lb.example"},
        externalIPs=["192.0.2.9", "fd00:0::9"],
    )
    assert found.load_balancer_ips == ("192.0.2.1", "192.0.2.2")
    assert found.external_ips == ("192.0.2.9", "fd00::9")
    assert service(externalIPs=None) == service()


def test_a_load_balancer_for_certain_sources_is_left_to_kube_proxy() -> None:
    found = with_balancer({"ip": "192.0.2.1"}, loadBalancerSourceRanges=["10.0.0.0/8"])
    assert found.load_balancer_ips == ()


SLICE = {
    "metadata": {
        "name": "web-1",
        "namespace": "shop",
        "labels": {"kubernetes.io/service-name": "web"},
    },
    "addressType": "IPv4",
    "ports": [
        {"name": "http", "port": 8080, "protocol": "TCP"},
        {"port": 53, "protocol": "UDP"},
        {"name": "any"},
    ],
    "endpoints": [
        {
            "addresses": ["10.0.0.5", "10.0.0.6"],
            "conditions": {"ready": False, "serving": True, "terminating": True},
            "nodeName": "n1",
            "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}, {"name": "n2"}]},
        },
        {"addresses": ["10.0.0.7"]},
        {"addresses": []},
    ],
}


def test_an_endpoint_slice_is_read() -> None:
    assert read_endpoint_slice(raw(SLICE)).value == EndpointSlice(
        service="shop/web",
        family=Family.IPV4,
        ports={("http", Protocol.TCP): 8080, ("", Protocol.UDP): 53},
        endpoints=(
            SliceEndpoint(
                address="10.0.0.5",
                node="n1",
                ready=False,
                serving=True,
                terminating=True,
                for_zones=frozenset({"z1"}),
                for_nodes=frozenset({"n1", "n2"}),
            ),
            SliceEndpoint(address="10.0.0.7"),
        ),
    )


@pytest.mark.parametrize(
    "changes",
    [{"metadata.labels": None}, {"addressType": "FQDN"}],
    ids=["of no service", "names, not addresses"],
)
def test_slices_without_use_are_of_no_interest(changes: dict[str, Any]) -> None:
    item = read_endpoint_slice(raw(merged(SLICE, changes)))
    assert (item.value, item.problems) == (None, ())


def test_a_slice_may_have_null_for_its_lists() -> None:
    item = read_endpoint_slice(raw(merged(SLICE, {"ports": None, "endpoints": None})))
    assert item.value == EndpointSlice(service="shop/web")


@pytest.mark.parametrize("number", [0, 70000])
def test_a_number_that_is_no_port_is_left_out_of_its_slice(number: int) -> None:
    # The API server takes it.
    ports = [{"name": "bad", "port": number}, {"name": "http", "port": 8080}]
    item = read_endpoint_slice(raw(merged(SLICE, {"ports": ports})))
    assert item.value is not None
    assert item.value.ports == {("http", Protocol.TCP): 8080}
    assert [(each.path, each.severity) for each in item.problems] == [
        ("ports[0].port", Severity.WARNING)
    ]


def test_an_address_that_is_none_refuses_its_slice() -> None:
    item = read_endpoint_slice(raw(merged(SLICE, {"endpoints": [{"addresses": ["web.shop"]}]})))
    assert item.is_refused
    assert item.problems[0].path == "endpoints[0].addresses[0]"


def test_a_policy_is_read_as_stored() -> None:
    # Ports without a selector are no error in a cluster: the mode still counts.
    spec = {"mtls": {"mode": "STRICT"}, "portLevelMtls": {"80": {"mode": "DISABLE"}}}
    metadata = {"name": "p", "namespace": "shop", "creationTimestamp": "2026-01-01T12:00:00Z"}
    item = read_policy(raw({"metadata": metadata, "spec": spec}))
    assert item.value is not None
    assert (item.value.mode, item.value.port_modes) == (Mode.STRICT, {})
    assert item.value.created == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert not item.is_refused
    assert item.problems[0].path == "spec.portLevelMtls"


def test_a_policy_of_no_mode_is_refused() -> None:
    metadata = {"name": "p", "namespace": "shop", "resourceVersion": "5"}
    item = read_policy(raw({"metadata": metadata, "spec": {"mtls": {"mode": "MAYBE"}}}))
    assert (item.value, item.is_refused, item.version) == (None, True, "5")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "spec", "status", "labels", "ports", "endpoints", "addresses", "name"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.sampled_from(sorted(READERS)), json_values)
def test_whatever_is_sent_is_read_or_blamed_on_the_server(kind: str, sent: object) -> None:
    with contextlib.suppress(PeerError):
        assert isinstance(READERS[kind](raw(sent)), Item)


@given(json_values)
def test_a_pod_with_any_spec_and_status_is_read_or_refused_by_itself(sent: object) -> None:
    item = read_pod(raw({**POD, "spec": sent, "status": sent}))
    assert item.key == "shop/web-5d4f-x"
    assert item.is_refused is (item.value is None)


def test_an_object_that_is_no_utf_8_is_blamed_on_the_server() -> None:
    with pytest.raises(PeerError, match="no usable metadata"):
        read_pod(msgspec.Raw(b'{"metadata": {"name": "\xff"}}'))


@given(json_values, st.integers(1, 4))
def test_cutting_depths_leaves_what_is_above_as_it_is(sent: object, deepest: int) -> None:
    def cut(value: object, depth: int) -> object:
        if isinstance(value, dict | list) and depth == deepest:
            return None
        if isinstance(value, dict):
            return {key: cut(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list):
            return [cut(each, depth + 1) for each in value]
        return value

    assert json.loads(without_depths(json.dumps(sent).encode(), deepest)) == cut(sent, 0)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(r'{"a": "[{\"[\\"}', id="brackets and quotes in a string"),
        pytest.param(r'{"a": "\\\\"}', id="backslashes"),
        pytest.param('{"a": [], "b": {}}', id="empty ones"),
    ],
)
def test_only_real_brackets_count(text: str) -> None:
    assert json.loads(without_depths(text.encode(), 2)) == json.loads(text)


@pytest.mark.parametrize("depth", [10_000, 300_000])
def test_any_depth_is_decoded(depth: int) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    found = decode(b'{"metadata": {"name": "x"}, "status": ' + deep + b"}", dict[str, Any])
    assert found["metadata"] == {"name": "x"}


def test_what_is_cut_off_and_deep_is_no_json() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(b'{"a":' * 10_000, dict[str, Any])
