"""Directories as they are found in the wild are read without falling over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from troth.cli.app import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CRD = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: peerauthentications.security.istio.io}
spec:
  group: security.istio.io
  names: {kind: PeerAuthentication, plural: peerauthentications}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
HELM = """\
---
# Source: shop/templates/serviceaccount.yaml
apiVersion: v1
kind: ServiceAccount
metadata:
  name: shop
  namespace: finance
---
# Source: shop/templates/ingress.yaml
---
# Source: shop/templates/deployment.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  namespace: finance
  labels:
    helm.sh/chart: shop-1.2.3
    app.kubernetes.io/managed-by: Helm
spec:
  selector:
    matchLabels:
      app.kubernetes.io/name: shop
  template:
    metadata:
      annotations:
        checksum/config: 6d6e71
      labels:
        app.kubernetes.io/name: shop
    spec:
      serviceAccountName: shop
      containers:
        - name: shop
          image: "registry.example/shop:1.2.3"
          ports:
            - {name: http, containerPort: 8080}
          resources:
            {}
"""
ANCHORS = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: finance}
spec:
  selector: {matchLabels: &labels {app: shop}}
  template:
    metadata: {labels: *labels}
    spec:
      containers:
        - &main {name: main, image: app, ports: [{containerPort: 8080}]}
        - {<<: *main, name: second, ports: [{containerPort: 9090}]}
"""
TYPED_LIST = """\
apiVersion: v1
kind: PodList
items:
  - metadata: {name: shop, namespace: finance, labels: {app: shop}}
    spec: {containers: [{name: main, image: app, ports: [{containerPort: 8080}]}]}
"""
POLICY = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: finance}
spec: {mtls: {mode: STRICT}}
"""
GO_TEMPLATE = """\
{{- if .Values.enabled }}
apiVersion: v1
kind: Pod
metadata: {name: {{ .Release.Name }}}
{{- end }}
"""


@pytest.fixture
def validated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Write files (``NAME=CONTENT``), validate their directory; the exit code and the report."""

    def report(**files: bytes | str) -> tuple[int, dict[str, Any]]:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            (tmp_path / f"{name}.yaml").write_bytes(data)
        code = run(["validate", "-f", str(tmp_path), "-o", "json"])
        return code, json.loads(capsys.readouterr().out)

    return report


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        pytest.param(CRD, {}, id="the policy's own CRD"),
        pytest.param(HELM, {"Deployment": 1, "ServiceAccount": 1}, id="Helm's output"),
        pytest.param(ANCHORS, {"Deployment": 1}, id="anchors and merges"),
        pytest.param(TYPED_LIST, {"Pod": 1}, id="a typed list"),
        pytest.param("", {}, id="an empty file"),
        pytest.param("---\n---\n# nothing\n---\nnull\n...\n---\n", {}, id="empty documents"),
        pytest.param(HELM.replace("\n", "\r\n"), {"Deployment": 1, "ServiceAccount": 1}, id="CRLF"),
        pytest.param("\ufeff" + POLICY, {"PeerAuthentication": 1}, id="a byte order mark"),
        pytest.param(POLICY.encode("utf-16"), {"PeerAuthentication": 1}, id="UTF-16"),
    ],
)
def test_what_is_right_has_no_problems(
    validated: Callable[..., tuple[int, dict[str, Any]]],
    text: bytes | str,
    objects: dict[str, int],
) -> None:
    code, report = validated(file=text)

    assert report["problems"] == []
    assert report["objects"] == objects
    assert code == 0


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(GO_TEMPLATE, id="an unrendered template"),
        pytest.param(b"\xff\xfe\xfa\x00", id="no text"),
        pytest.param("a: b: c\n", id="no YAML"),
        pytest.param("just text\n", id="no object"),
        pytest.param("- a\n- list\n", id="a list"),
        pytest.param("a: &a [*a]\n", id="an anchor in itself"),
        pytest.param("[" * 5000, id="nested without end"),
        pytest.param(
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(
                f"{c}: &{c} [{','.join(['*' + b] * 9)}]\n"
                for b, c in zip("abcdefg", "bcdefgh", strict=True)
            ),
            id="a billion laughs",
        ),
        pytest.param("!!python/object/apply:os.system ['true']\n", id="a tag that would run code"),
    ],
)
def test_what_is_bad_is_told_and_costs_only_itself(
    validated: Callable[..., tuple[int, dict[str, Any]]], bad: bytes | str
) -> None:
    code, report = validated(bad=bad, good=HELM + "---\n" + POLICY)

    assert code == 1
    assert report["objects"] == {"Deployment": 1, "PeerAuthentication": 1, "ServiceAccount": 1}
    assert {problem["location"]["file"].rpartition("/")[2] for problem in report["problems"]} == {
        "bad.yaml"
    }


def test_a_bad_document_among_good_ones_in_one_file_costs_only_itself(
    validated: Callable[..., tuple[int, dict[str, Any]]],
) -> None:
    code, report = validated(file=f"{POLICY}---\na: b: c\n{HELM}")

    assert code == 1
    assert [problem["location"]["line"] for problem in report["problems"]] == [6]
    assert report["objects"] == {"Deployment": 1, "PeerAuthentication": 1, "ServiceAccount": 1}


def test_explain_sees_through_anchors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop.yaml").write_text(f"{ANCHORS}---\n{POLICY}")

    assert run(["explain", "finance/shop", "-f", str(tmp_path), "-o", "json"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert {port: each["mode"] for port, each in report["ports"].items()} == {
        "8080": "STRICT",
        "9090": "STRICT",
    }


def test_4000_documents_are_read_planned_and_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pod = (
        "apiVersion: v1\nkind: Pod\n"
        "metadata: {{name: p{0}, namespace: n{1}, labels: {{app: p{0}}}}}\n"
        "spec: {{containers: [{{name: main, image: app, ports: [{{containerPort: 8080}}]}}]}}\n"
    )
    policy = (
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
        "metadata: {{name: p{0}, namespace: n{1}}}\n"
        "spec: {{selector: {{matchLabels: {{app: p{0}}}}}, mtls: {{mode: STRICT}}}}\n"
    )
    documents = [kind.format(n, n % 7) for n in range(2000) for kind in (pod, policy)]
    path = tmp_path / "all.yaml"
    path.write_text("---\n".join(documents))
    manifests = ["-f", str(path), "-o", "json"]

    assert run(["validate", *manifests]) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == {
        "PeerAuthentication": 2000,
        "Pod": 2000,
    }

    assert run(["explain", "n3/p10", *manifests]) == 0
    assert json.loads(capsys.readouterr().out)["decided_by"]["policy"] == "n3/p10"

    # A namespace that moves into the mesh changes all of its pods, and shuts the others out.
    joining = tmp_path / "joining.yaml"
    joining.write_text(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: n3, labels: {troth.dev/mesh: enabled}}\n"
    )
    assert run(["plan", *manifests, "--with", str(joining)]) == 1
    (breaks,) = json.loads(capsys.readouterr().out)["breaks"]
    assert (len(breaks["ports"]), len(breaks["clients"])) == (286, 1714)
