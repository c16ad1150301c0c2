from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import typer
import yaml
from tests.deploy import chart

import troth
from troth.cli.app import command_tree
from troth.cluster import contract
from troth.mesh.model import (
    CAPTURED_ANNOTATION,
    CAPTURED_AT_ANNOTATION,
    PLAINTEXT_ANNOTATION,
)
from troth.mesh.world import DEFAULT_HOME

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPLATES = [path.name for path in chart.templates()]


def all_objects(**values: Any) -> list[dict[str, Any]]:
    return [made for name in TEMPLATES for made in chart.objects(name, values)]


def one(kind: str, name: str, **values: Any) -> dict[str, Any]:
    (found,) = (
        made
        for made in all_objects(**values)
        if (made["kind"], made["metadata"]["name"]) == (kind, name)
    )
    return found


def pods(**values: Any) -> dict[str, dict[str, Any]]:
    """The specs of the pods that are made, by what makes them."""
    return {
        made["metadata"]["name"]: made["spec"]["template"]["spec"]
        for made in all_objects(**values)
        if made["kind"] in {"Deployment", "DaemonSet"}
    }


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_plain_manifests_are_the_charts(name: str) -> None:
    made = "write it again: python -m tests.deploy.chart"
    path, text = chart.plain(name)
    assert path.read_text() == text, made


def test_all_plain_manifests_are_applied_and_nothing_else() -> None:
    wanted = yaml.safe_load((chart.DEPLOY / "kustomization.yaml").read_text())["resources"]
    there = {f"manifests/{path.name}" for path in chart.MANIFESTS.iterdir()}
    assert sorted(wanted) == sorted(there | {"namespace.yaml", "crds/connectionreviews.yaml"})
    plain = {chart.plain(name)[0] for name in TEMPLATES}
    assert there == {f"manifests/{path.name}" for path in plain if path.parent == chart.MANIFESTS}
    assert set(chart.OPTIONAL.iterdir()) == {p for p in plain if p.parent == chart.OPTIONAL}


def test_the_chart_brings_the_definition_of_policies() -> None:
    brought = {path.name: path.read_text() for path in (chart.CHART / "crds").iterdir()}
    assert brought == {path.name: path.read_text() for path in (chart.DEPLOY / "crds").iterdir()}


def test_the_chart_has_the_programs_version() -> None:
    described = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert described["appVersion"] == troth.__version__


def leaves(values: dict[str, Any], path: str = ".Values") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and key not in {"nodeSelector", "resources"}:
            yield from leaves(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}"


def test_every_value_has_an_effect() -> None:
    text = "".join(path.read_text() for path in chart.templates())
    used = set(re.findall(r"\.Values[.A-Za-z]+", text))
    assert used == set(leaves(yaml.safe_load((chart.CHART / "values.yaml").read_text())))


def test_values_reach_their_objects() -> None:
    values = {
        "image": {"repository": "mirror/troth", "tag": "1.2", "pullSecrets": [{"name": "key"}]},
        "trustDomain": "corp.example",
        "controller": {"tolerations": [{"operator": "Exists"}], "replicas": 3},
    }
    for spec in pods(**values).values():
        (container,) = spec["containers"]
        assert container["image"] == "mirror/troth:1.2"
        assert "--trust-domain=corp.example" in container["args"]
        assert spec["imagePullSecrets"] == [{"name": "key"}]
        assert spec["tolerations"] == [{"operator": "Exists"}]
    assert one("Deployment", "troth-controller", **values)["spec"]["replicas"] == 3


def test_what_is_off_leaves_nothing_behind() -> None:
    assert one("NetworkPolicy", "troth-controller")
    kinds = {made["kind"] for made in all_objects(controller={"networkPolicy": False})}
    assert "NetworkPolicy" not in kinds
    assert all("imagePullSecrets" not in spec for spec in pods().values())


@pytest.mark.parametrize(
    ("program", "name"), [("controller", "troth-controller"), ("node", "troth-node")]
)
def test_metrics_are_shown_where_they_are_wanted_and_prometheus_is_told(
    program: str, name: str
) -> None:
    def template(**values: Any) -> Any:
        kind = "Deployment" if program == "controller" else "DaemonSet"
        return one(kind, name, **values)["spec"]["template"]

    assert "annotations" not in template()["metadata"]
    assert not [arg for arg in template()["spec"]["containers"][0]["args"] if "metrics" in arg]
    wanted = template(**{program: {"metricsPort": 9464}})
    assert wanted["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "9464",
        "prometheus.io/path": "/metrics",
    }
    assert "--metrics=9464" in wanted["spec"]["containers"][0]["args"]


def test_the_node_agent_has_the_nodes_cni_folders_only_where_it_is_to_have_them() -> None:
    def daemon_set(**values: Any) -> Any:
        return one("DaemonSet", "troth-node", node={"cni": values})["spec"]["template"]["spec"]

    assert "cni" not in str(daemon_set(enabled=False))
    spec = daemon_set(programs="/usr/libexec/cni", exempt="boot,dns")
    (container,) = spec["containers"]
    folders = ["/usr/libexec/cni", "/etc/cni/net.d", "/var/lib/troth"]
    assert [arg for arg in container["args"] if "cni" in arg] == [
        "--cni",
        f"--cni-programs={folders[0]}",
        f"--cni-configurations={folders[1]}",
        f"--cni-state={folders[2]}/mesh.json",
        "--cni-exempt=boot,dns",
    ]
    # What it writes for the node is at the same paths on the node.
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    on_node = {v["name"]: v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v}
    assert [on_node[name] for name in mounts if name.startswith("cni-")] == folders
    assert {name: mounts[name] for name in on_node} == on_node


def test_the_node_agent_may_change_its_node_only_where_there_is_a_startup_taint() -> None:
    def given(**values: Any) -> tuple[bool, bool, bool]:
        (container,) = one("DaemonSet", "troth-node", node=values)["spec"]["template"]["spec"][
            "containers"
        ]
        rules = one("ClusterRole", "troth-node", node=values)["rules"]
        policies = [made["metadata"]["name"] for made in all_objects(node=values)]
        return (
            "--startup-taint" in container["args"],
            any("nodes" in rule["resources"] and "patch" in rule["verbs"] for rule in rules),
            policies.count("troth-node-taints") == 2,
        )

    assert given() == (False, False, False)
    assert given(startupTaint=True) == (True, True, True)


def test_the_node_agent_may_evict_pods_only_where_it_is_to() -> None:
    def given(**values: Any) -> tuple[bool, bool]:
        (container,) = one("DaemonSet", "troth-node", node=values)["spec"]["template"]["spec"][
            "containers"
        ]
        rules = one("ClusterRole", "troth-node", node=values)["rules"]
        return (
            "--uncaptured=evict" in container["args"],
            any("pods/eviction" in rule["resources"] for rule in rules),
        )

    assert given() == given(uncaptured="report") == (False, False)
    assert given(uncaptured="evict") == (True, True)


def test_the_node_agent_is_told_what_it_may_use() -> None:
    def container(**values: Any) -> Any:
        return one("DaemonSet", "troth-node", node=values)["spec"]["template"]["spec"][
            "containers"
        ][0]

    [memory] = [each for each in container()["env"] if each["name"] == "MEMORY_LIMIT"]
    assert memory["valueFrom"] == {"resourceFieldRef": {"resource": "limits.memory"}}
    option = "--max-connections-per-pod"
    assert not [arg for arg in container()["args"] if option in arg]
    assert f"{option}=500" in container(maxConnectionsPerPod=500)["args"]
    assert "--keepalive-seconds=120" in container()["args"]
    assert "--keepalive-seconds=30" in container(keepaliveSeconds=30)["args"]


def test_only_who_is_meant_gets_the_controllers_metrics() -> None:
    def ingress(**values: Any) -> Any:
        return one("NetworkPolicy", "troth-controller", controller=values)["spec"].get("ingress")

    monitoring = {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}
    ports = [{"port": "metrics"}]
    assert ingress() is None
    assert ingress(metricsPort=9464) == [{"ports": ports}]
    assert ingress(metricsPort=9464, metricsFrom=[monitoring]) == [
        {"ports": ports, "from": [monitoring]}
    ]


def test_another_namespace_is_used_throughout() -> None:
    for name in TEMPLATES:
        assert chart.NAMESPACE not in chart.render(name, namespace="elsewhere")


def test_the_programs_know_all_flags_that_they_are_given() -> None:
    known = typer.main.get_command(command_tree()).commands  # type: ignore[attr-defined]  # it is a group
    for spec in pods().values():
        (container,) = spec["containers"]
        _, command = container["command"]
        options = {text for parameter in known[command].params for text in parameter.opts}
        assert {word.partition("=")[0] for word in container["args"]} <= options


def test_nothing_is_named_otherwise_than_in_the_programs() -> None:
    text = "".join(chart.render(name) for name in TEMPLATES)
    for name in (
        contract.AUTHORITY_SECRET,
        contract.CONTROLLER,
        DEFAULT_HOME,
        contract.NODE_NAME_ATTRIBUTE,
        contract.NODE_SERVICE_ACCOUNT,
        contract.REVIEWS,
        contract.SIGNER_NAME,
        contract.TRUST_BUNDLE,
        CAPTURED_ANNOTATION,
        CAPTURED_AT_ANNOTATION,
        PLAINTEXT_ANNOTATION,
    ):
        assert name in text
    assert f"'{contract.report_lease('')}' + variables.node" in text


def test_only_the_node_agent_has_capabilities_and_nobody_is_privileged() -> None:
    contexts = {name: spec["containers"][0]["securityContext"] for name, spec in pods().items()}
    assert contexts["troth-controller"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    node = contexts["troth-node"]
    assert node["readOnlyRootFilesystem"]
    assert "privileged" not in node
    assert node["capabilities"]["drop"] == ["ALL"]


@pytest.mark.parametrize("kind", ["Role", "ClusterRole"])
def test_no_role_has_a_wildcard(kind: str) -> None:
    rules = [rule for made in all_objects() if made["kind"] == kind for rule in made["rules"]]
    assert rules
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


@pytest.mark.parametrize(
    "template",
    [
        '{{ include "labels" . }}',
        "{{ range .Values.x }}{{ end }}",
        "{{ .Values.x | upper }}",
        "{{ if .Values.x }}",
        "{{.Values.x}}",
    ],
)
def test_what_only_helm_understands_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="only Helm understands"):
        chart._rendered(template, {"Values": {"x": "y"}})


def test_white_space_is_removed_as_helm_does() -> None:
    template = (
        "a:\n  {{- with .Values.x }}\n  b:\n    {{- toYaml . | nindent 4 }}\n  {{- end }}\nc: d\n"
    )
    assert chart._rendered(template, {"Values": {"x": {"e": [1]}}}) == (
        "a:\n  b:\n    e:\n    - 1\nc: d\n"
    )
    assert chart._rendered(template, {"Values": {"x": {}}}) == "a:\nc: d\n"


def test_a_container_runtimes_socket_is_mounted_only_where_it_is_wanted() -> None:
    without, given = (
        pods(node={"cri": {"folder": folder}})["troth-node"] for folder in ("", "/run/containerd")
    )
    assert "cri" not in {volume["name"] for volume in without["volumes"]}
    assert not any("cri" in argument for argument in without["containers"][0]["args"])
    (container,) = given["containers"]
    assert "--cri-socket=/run/containerd/containerd.sock" in container["args"]
    mounted = {"name": "cri", "mountPath": "/run/containerd", "readOnly": True}
    assert mounted in container["volumeMounts"]
    folder = {"path": "/run/containerd", "type": "Directory"}
    assert {"name": "cri", "hostPath": folder} in given["volumes"]
