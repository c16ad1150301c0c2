"""Kubernetes objects in a line each, and what they say together.

A workload is ``KIND NAMESPACE/NAME {KEY=VALUE,...} PORT ...``, a policy
``NAMESPACE/NAME {KEY=VALUE,...} MODE PORT=MODE ...``; all but the names can be left out. A
namespace is ``+NAME`` in the mesh and ``-NAME`` outside it.
"""

from __future__ import annotations

import re

import msgspec

from troth.manifests.collect import Manifests, collect
from troth.manifests.yaml import read_documents

ROOT = "istio-system"

_WORKLOAD = re.compile(
    r"(?P<kind>Pod|Deployment|StatefulSet|Job) (?P<namespace>[\w-]+)/(?P<name>[\w-]+)"
    r"( \{(?P<labels>[^}]*)\})?(?P<ports>( [\w/]+)*)"
)
_POLICY = re.compile(
    r"(?P<namespace>[\w-]+)/(?P<name>[\w.-]+)( \{(?P<selector>[^}]*)\})?( (?P<mode>[A-Z]+))?"
    r"(?P<ports>( \d+=[A-Z]+)*)"
)
_API = {"Pod": "v1", "Deployment": "apps/v1", "StatefulSet": "apps/v1", "Job": "batch/v1"}


def document(line: str) -> dict[str, object]:
    """The object that a line stands for."""
    if line[0] in "+-":
        labels = {"troth.dev/mesh": "enabled"} if line[0] == "+" else {}
        return {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": line[1:], "labels": labels},
        }
    if match := _WORKLOAD.fullmatch(line):
        return _workload(match)
    match = _POLICY.fullmatch(line)
    assert match, f"not in the notation: {line}"
    spec: dict[str, object] = {"mtls": {"mode": match["mode"] or "UNSET"}}
    if match["selector"]:
        spec["selector"] = {"matchLabels": _labels(match["selector"])}
    if match["ports"]:
        entries = (entry.split("=") for entry in match["ports"].split())
        spec["portLevelMtls"] = {port: {"mode": mode} for port, mode in entries}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": match["name"], "namespace": match["namespace"]},
        "spec": spec,
    }


def _workload(match: re.Match[str]) -> dict[str, object]:
    kind, labels = match["kind"], _labels(match["labels"] or f"app={match['name']}")
    metadata = {"namespace": match["namespace"], "name": match["name"]}
    ports = []
    for port in match["ports"].split():
        number, _, protocol = port.partition("/")
        ports.append({"containerPort": int(number), "protocol": protocol or "TCP"})
    pod = {"containers": [{"name": "main", "image": "app:1", "ports": ports}]}
    top = {"apiVersion": _API[kind], "kind": kind}
    if kind == "Pod":
        return {**top, "metadata": {**metadata, "labels": labels}, "spec": pod}
    spec: dict[str, object] = {"template": {"metadata": {"labels": labels}, "spec": pod}}
    if kind == "Job":
        pod["restartPolicy"] = "Never"  # type: ignore[assignment]  # a mapping of any values
    else:
        spec["selector"] = {"matchLabels": labels}
    return {**top, "metadata": metadata, "spec": spec}


def _labels(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split(","))


def objects(*lines: str, **files: str) -> Manifests:
    """Read lines of the notation, and whole files of YAML (``NAME=TEXT``)."""
    encoded = b"\n---\n".join(msgspec.json.encode(document(line)) for line in lines)
    documents, problems = read_documents(encoded, "lines.yaml")
    for name, text in files.items():
        good, bad = read_documents(text, f"{name}.yaml")
        documents += good
        problems += bad
    return collect(documents, problems)
