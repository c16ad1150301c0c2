from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.errors import Location, Severity
from troth.manifests.collect import Manifests, collect
from troth.manifests.kinds import KINDS
from troth.manifests.yaml import Document, read_documents
from troth.mesh.model import Namespace
from troth.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Callable

POLICY = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: finance}
spec: {mtls: {mode: STRICT}}
"""


def account(name: str = "a", namespace: str = "finance") -> str:
    return (
        "{apiVersion: v1, kind: ServiceAccount, "
        f"metadata: {{name: {name}, namespace: {namespace}}}}}"
    )


def test_a_policy_is_collected(read: Callable[..., Manifests]) -> None:
    manifests = read(POLICY)
    assert manifests.policies["finance/default"].mode is Mode.STRICT
    assert manifests.origins == {"PeerAuthentication finance/default": Location("f.yaml", 1)}


def test_a_bad_policy_is_refused_at_the_line_of_its_field(read: Callable[..., Manifests]) -> None:
    manifests = read(POLICY.replace("STRICT", "strict"))
    assert manifests.policies == {}
    assert manifests.refused == {"PeerAuthentication finance/default"}
    (problem,) = manifests.problems
    assert str(problem).startswith("f.yaml:4: PeerAuthentication finance/default: spec.mtls.mode: ")


def test_a_bad_name_of_a_policy_is_told_once(read: Callable[..., Manifests]) -> None:
    manifests = read(POLICY.replace("name: default", "name: Default!"))
    assert [problem.path for problem in manifests.problems] == ["metadata.name"]
    assert manifests.unread == {"f.yaml"}


KINDS_WITH_LABELS = [
    "apiVersion: v1, kind: ConfigMap",
    "apiVersion: v1, kind: ServiceAccount",
    "apiVersion: v1, kind: Namespace",
    "apiVersion: security.istio.io/v1, kind: PeerAuthentication",
    "apiVersion: networking.k8s.io/v1, kind: Ingress",
    "apiVersion: example.org/v1, kind: Widget",
]


@pytest.mark.parametrize("head", KINDS_WITH_LABELS)
@pytest.mark.parametrize(
    ("metadata", "path", "found"),
    [
        ("labels: {a: true}", "metadata.labels[a]", "is the boolean true"),
        ("labels: {a: 1.10}", "metadata.labels[a]", "is the number 1.1"),
        ("labels: [a]", "metadata.labels", "is a list"),
        ("labels: {a: b c}", "metadata.labels[a]", 'is "b c"'),
        ("labels: {A.org/a: b}", "metadata.labels", 'has a key whose prefix is "A.org"'),
        ("annotations: {a: true}", "metadata.annotations[a]", "is the boolean true"),
        ("annotations: {a: 1.10}", "metadata.annotations[a]", "is the number 1.1"),
        ("annotations: [a]", "metadata.annotations", "is a list"),
        ("annotations: {a b: c}", "metadata.annotations", 'has a key whose name is "a b"'),
        (f"annotations: {{a: {'b' * 2**18}}}", "metadata.annotations", "has 262145 bytes"),
    ],
)
def test_labels_and_annotations_are_checked_on_every_object(
    head: str, metadata: str, path: str, found: str, read: Callable[..., Manifests]
) -> None:
    manifests = read(f"{{{head}, metadata: {{name: a, {metadata}}}}}")
    assert [(each.path, each.found) for each in manifests.problems] == [(path, found)]


@pytest.mark.parametrize("head", KINDS_WITH_LABELS)
@pytest.mark.parametrize(
    "metadata",
    [
        "labels: {a: null, example.org/b: c_d.e}",
        "labels: null, annotations: null",
        "annotations: {a: any text at all, Example.ORG/b: null}",
    ],
)
def test_labels_and_annotations_are_what_the_api_server_takes(
    head: str, metadata: str, read: Callable[..., Manifests]
) -> None:
    assert read(f"{{{head}, metadata: {{name: a, {metadata}}}}}").problems == ()


def test_an_unknown_field_of_metadata_is_told(read: Callable[..., Manifests]) -> None:
    manifests = read("{apiVersion: v1, kind: Namespace, metadata: {name: a, label: {b: c}}}")
    (problem,) = manifests.problems
    assert (problem.path, problem.severity) == ("metadata.label", Severity.WARNING)
    assert problem.wanted == "did you mean labels?"
    assert list(manifests.namespaces) == ["a"]


def test_labels_are_told_of_once_however_many_read_them(read: Callable[..., Manifests]) -> None:
    manifests = read("{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {b: true}}}")
    assert len(manifests.problems) == 1
    assert manifests.refused == {"Namespace a"}


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (
            "MeshPolicy",
            (
                "write a PeerAuthentication without a selector in the root namespace "
                "(security.istio.io/v1)"
            ),
        ),
        ("Policy", "write a PeerAuthentication (security.istio.io/v1)"),
    ],
)
def test_a_policy_of_old_names_its_successor(
    kind: str, wanted: str, read: Callable[..., Manifests]
) -> None:
    manifests = read(
        f"{{apiVersion: authentication.istio.io/v1alpha1, kind: {kind}, metadata: {{name: a}}}}"
    )
    (problem,) = manifests.problems
    assert (problem.path, problem.wanted) == ("kind", wanted)
    assert manifests.unread == {"f.yaml"}


def test_an_object_whose_name_is_generated_is_refused_for_that(
    read: Callable[..., Manifests],
) -> None:
    (problem,) = read("{apiVersion: v1, kind: Pod, metadata: {generateName: a-}}").problems[:1]
    assert problem.path == "metadata.name"
    assert problem.wanted.startswith("generateName makes another object each time")


def test_namespaces_are_written_or_implied(read: Callable[..., Manifests]) -> None:
    manifests = read(
        "{apiVersion: v1, kind: Namespace, "
        "metadata: {name: finance, labels: {troth.dev/mesh: enabled}}}\n---\n"
        f"{account()}\n---\n{account(namespace='other')}"
    )
    assert manifests.namespaces == {
        "finance": Namespace(name="finance", labels={"troth.dev/mesh": "enabled"}),
        "other": Namespace(name="other"),
    }


def test_an_object_without_namespace_is_in_default(read: Callable[..., Manifests]) -> None:
    manifests = read("{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}")
    assert list(manifests.service_accounts) == ["default/a"]
    assert list(manifests.namespaces) == ["default"]


def test_the_first_of_two_equals_wins_and_both_places_are_named(
    read: Callable[..., Manifests],
) -> None:
    manifests = read(a=POLICY, b=f"---\n{POLICY.replace('STRICT', 'DISABLE')}")
    assert manifests.policies["finance/default"].mode is Mode.STRICT
    assert list(map(str, manifests.problems)) == [
        (
            "b.yaml:2: PeerAuthentication finance/default: is defined twice, first at a.yaml:1; "
            "keep one of them"
        )
    ]


def test_the_second_of_two_equals_does_not_stand_in_for_a_refused_first(
    read: Callable[..., Manifests],
) -> None:
    manifests = read(a=POLICY.replace("STRICT", "strict"), b=POLICY.replace("STRICT", "DISABLE"))
    assert manifests.policies == {}
    assert len(manifests.problems) == 2


def test_the_same_name_in_another_kind_or_namespace_is_another_object(
    read: Callable[..., Manifests],
) -> None:
    config = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: finance}}"
    manifests = read(f"{account()}\n---\n{account(namespace='b')}\n---\n{config}")
    assert manifests.problems == ()
    assert len(manifests.origins) == 3


@pytest.mark.parametrize(
    "text",
    [
        f"{{apiVersion: v1, kind: List, items: [{account('a')}, {account('b')}]}}",
        (
            "{apiVersion: v1, kind: ServiceAccountList, items: [{metadata: {name: a, namespace: "
            "finance}}, {metadata: {name: b, namespace: finance}}]}"
        ),
        (
            f"{{apiVersion: v1, kind: List, items: [{account('a')}, "
            f"{{apiVersion: v1, kind: List, items: [{account('b')}]}}]}}"
        ),
    ],
    ids=["list", "typed-list", "list-in-a-list"],
)
def test_lists_are_flattened(text: str, read: Callable[..., Manifests]) -> None:
    manifests = read(text)
    assert manifests.problems == ()
    assert list(manifests.service_accounts) == ["finance/a", "finance/b"]


def test_an_item_of_a_list_has_its_own_place(read: Callable[..., Manifests]) -> None:
    manifests = read(
        """\
        apiVersion: security.istio.io/v1
        kind: PeerAuthenticationList
        items:
        - metadata: {name: a}
          spec: {mtls: {mode: STRICT}}
        - metadata: {name: b}
          spec:
            mtls: {mode: NONE}
        """
    )
    assert manifests.origins["PeerAuthentication default/a"] == Location("f.yaml", 4)
    assert [problem.location for problem in manifests.problems] == [Location("f.yaml", 8)]


def test_an_empty_list_is_nothing(read: Callable[..., Manifests]) -> None:
    assert read("{apiVersion: v1, kind: List, items: []}") == Manifests()


def test_other_kinds_are_counted_and_not_read(read: Callable[..., Manifests]) -> None:
    gateway = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway}"
    knative = "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: x}}"
    manifests = read(
        f"{gateway}\n---\n{gateway}\n---\n{knative}\n---\n{{apiVersion: v1, kind: Node}}"
    )
    assert manifests.problems == ()
    assert manifests.ignored == (
        ("Gateway.gateway.networking.k8s.io", 2),
        ("Node", 1),
        ("Service.serving.knative.dev", 1),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", 'f.yaml:1: object: is "hello"; write a Kubernetes object'),
        ("- a\n", "f.yaml:1: object: is a list; write a Kubernetes object"),
        (
            "apiVersion: v1\nkind: 7\n",
            "f.yaml:2: object: kind: is the number 7; put quotes around it to make it a string",
        ),
        (
            "apiVersion: v1\n",
            "f.yaml:1: object: kind: is missing; write one, such as Deployment",
        ),
        (
            "apiVersion: apps/v1\nkind: Deploymnt\n",
            (
                'f.yaml:2: object: kind: is "Deploymnt", which its apiVersion doesn\'t have; '
                "did you mean Deployment?"
            ),
        ),
        (
            "apiVersion: v1\nkind: Deployment\n",
            "f.yaml:1: object: apiVersion: has no kind Deployment; write apps/v1",
        ),
        (
            "apiVersion: extensions/v1beta1\nkind: Deployment\n",
            "f.yaml:1: object: apiVersion: has no kind Deployment; write apps/v1",
        ),
        (
            "apiVersion: v1\nkind: List\nitems: {}\n",
            "f.yaml:3: object: items: is a mapping; write a list",
        ),
        (
            "apiVersion: v2\nkind: ServiceAccount\nmetadata: {name: a}\n",
            'f.yaml:1: ServiceAccount default/a: apiVersion: is "v2"; write v1',
        ),
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {}\n",
            "f.yaml:3: ServiceAccount: metadata.name: is missing; give the object a name",
        ),
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: 007}\n",
            (
                "f.yaml:3: ServiceAccount: metadata.name: is the number 7; "
                "put quotes around it to make it a string"
            ),
        ),
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, namespace: A}\n",
            (
                "f.yaml:3: ServiceAccount: metadata.namespace: is \"A\"; use a-z, 0-9 and '-', "
                "beginning and ending with a letter or digit (RFC 1123 label)"
            ),
        ),
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: [a]\n",
            None,
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a.b}\n",
            (
                "f.yaml:3: Namespace a.b: metadata.name: is \"a.b\"; use a-z, 0-9 and '-', "
                "beginning and ending with a letter or digit (RFC 1123 label)"
            ),
        ),
    ],
)
def test_what_is_no_object_is_refused_with_the_reason(
    text: str, message: str | None, read: Callable[..., Manifests]
) -> None:
    manifests = read(text)
    assert manifests.origins == {}
    assert manifests.problems
    assert manifests.unread or manifests.refused
    if message:
        assert list(map(str, manifests.problems)) == [message]


def test_the_problems_of_an_object_come_in_its_order(read: Callable[..., Manifests]) -> None:
    manifests = read(
        """\
        apiVersion: apps/v1
        kind: Deployment
        metadata: {name: a}
        spec:
          template:
            spec:
              containers: []
          selector: {}
          replicas: x
        """
    )
    assert [problem.path for problem in manifests.problems] == [
        "spec.template.spec.containers",
        "spec.selector",
        "spec.replicas",
    ]


FIELDS = """
name namespace labels spec template metadata containers ports containerPort env valueFrom
secretKeyRef readinessProbe httpGet port volumes volumeMounts selector matchLabels data stringData
replicas items command args jobTemplate mtls mode portLevelMtls clusterIP clusterIPs envFrom
"""

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS.split()) | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@given(
    kind=st.sampled_from([*KINDS, "List", "PodList"]),
    fields=st.dictionaries(
        st.sampled_from(["spec", "data", "binaryData", "stringData", "items", "type"]), ANYTHING
    ),
    metadata=ANYTHING | st.just({"name": "a"}),
)
def test_any_object_is_accepted_or_refused(
    kind: str, fields: dict[str, object], metadata: object
) -> None:
    api_version = KINDS[kind].api_versions[0] if kind in KINDS else "v1"
    value = {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}
    here = Location("f.yaml", 1)
    manifests = collect([Document(value=value, location=here)])
    assert not (manifests.origins and manifests.refused)
    assert manifests.origins or manifests.refused or manifests.unread or kind in ("List", "PodList")


def test_ten_thousand_objects_are_collected() -> None:
    stream = "\n---\n".join(account(f"a{number}") for number in range(10_000))
    assert len(collect(read_documents(stream, "f.yaml")[0]).service_accounts) == 10_000


def test_an_object_with_twenty_thousand_mistakes_is_read_like_any_other(
    read: Callable[..., Manifests],
) -> None:
    labels = ",".join(f'"k{number}": true' for number in range(20_000))
    text = '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {%s}}}'
    manifests = read(text % labels)
    assert len(manifests.problems) == 20_000
