"""Which source a command asks: a cluster, files, or the mesh on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from tests.cli.manifests import WORLD

from troth.ask import by_reviews, cluster
from troth.ask.by_reviews import ClusterMesh
from troth.cli import main
from troth.cli.app import command_tree, run
from troth.cli.asked import full_name, full_object_name
from troth.cluster.manifests import ClusterManifests
from troth.errors import EnvironmentLackError
from troth.explain.cluster_status import ClusterStatus
from troth.kube.client import Unreadable
from troth.manifests.files import load

if TYPE_CHECKING:
    from collections.abc import Callable

POLICY = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""
POLICIES = "peerauthentications.security.istio.io"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    def to_file(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return to_file


@pytest.fixture
def kubeconfig(write: Callable[[str, str], str]) -> str:
    """Of a cluster whose context's namespace is finance."""
    context = {"cluster": "here", "user": "me", "namespace": "finance"}
    content = {
        "clusters": [{"name": "here", "cluster": {"server": "https://here.test"}}],
        "contexts": [{"name": "here", "context": context}],
        "users": [{"name": "me", "user": {}}],
        "current-context": "here",
    }
    return write("kubeconfig", json.dumps(content))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, write: Callable[[str, str], str]) -> list[Any]:
    """The questions that a cluster was asked; it runs WORLD."""

    questions: list[Any] = []
    found = ClusterManifests(manifests=load([Path(write("cluster.yaml", WORLD))]))

    def read(asked: cluster.Cluster, **options: Any) -> ClusterManifests:
        questions.append((asked.config.context_name, options))
        return found

    for module in (by_reviews, cluster):
        monkeypatch.setattr(module, "read_objects", read)
    return questions


@pytest.mark.parametrize(
    "flags", [["--kubeconfig=K"], ["--kubeconfig=K", "--context=here"]], ids=["file", "context"]
)
@pytest.mark.parametrize(
    "command",
    [["explain", "web"], ["validate"], ["plan", "--without=Pod/web"]],
    ids=lambda command: command[0],
)
def test_a_cluster_is_asked_when_one_is_named(
    asked: list[Any], kubeconfig: str, command: list[str], flags: list[str]
) -> None:
    whole = [*command, *(flag.replace("K", kubeconfig) for flag in flags), "-o", "json"]
    assert run(whole) == 0
    ((context, _),) = asked
    assert context == "here"


@pytest.mark.parametrize(
    "command",
    [["explain", "web", "-n", "finance"], ["validate", "-n", "finance"]],
    ids=lambda command: command[0],
)
def test_a_namespace_alone_means_the_current_cluster(
    asked: list[Any], kubeconfig: str, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    assert run(command) == 0
    ((_, options),) = asked
    assert options["namespace"] == "finance"


def test_the_contexts_namespace_completes_names(asked: list[Any], kubeconfig: str) -> None:
    assert run(["explain", "web", "--kubeconfig", kubeconfig]) == 0
    ((_, options),) = asked
    assert (options["namespace"], options["keep"]) == ("finance", "finance/web")


def test_as_a_plugin_it_asks_a_cluster_without_being_told(
    asked: list[Any], kubeconfig: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    assert run(["explain", "web"], as_plugin=True) == 0
    assert len(asked) == 1


@pytest.mark.usefixtures("no_mesh")
def test_without_a_cluster_it_asks_the_mesh_on_this_machine(
    asked: list[Any], kubeconfig: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    assert run(["explain", "finance/web"]) == 1
    assert asked == []


@pytest.mark.parametrize("as_plugin", [False, True], ids=["troth", "kubectl troth"])
def test_files_are_asked_when_they_are_given(
    asked: list[Any], write: Callable[[str, str], str], *, as_plugin: bool
) -> None:
    path = write("world.yaml", WORLD)
    command = ["explain", "web", "-n", "finance", "-f", path]
    assert run(command, as_plugin=as_plugin) == 0
    assert asked == []


@pytest.mark.parametrize("flag", ["--context=here", "--kubeconfig=some"])
def test_files_and_a_cluster_are_one_too_many(
    capsys: pytest.CaptureFixture[str], write: Callable[[str, str], str], flag: str
) -> None:
    path = write("world.yaml", WORLD)
    assert run(["explain", "finance/web", "-f", path, flag]) == 2
    assert "ask either files, by -f, or a cluster" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["plan", "--without=Pod/a/b"], ["validate"]])
def test_what_needs_a_source_says_how_to_name_one(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert run(command) == 2
    assert "--filename PATH, or a cluster by --context" in capsys.readouterr().err


def test_a_namespace_that_can_be_none_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "-n", "a/b"]) == 2
    assert '-n: is "a/b"' in capsys.readouterr().err


@pytest.mark.usefixtures("asked")
def test_objects_of_a_plan_without_a_namespace_are_of_the_one_given(
    capsys: pytest.CaptureFixture[str], kubeconfig: str, write: Callable[[str, str], str]
) -> None:
    new = write("new.yaml", POLICY)
    assert run(["plan", "--with", new, "--kubeconfig", kubeconfig, "-o", "json"]) == 1
    plan = json.loads(capsys.readouterr().out)
    assert {each["decided_by"]["policy"] for each in plan["changes"]} == {"finance/default"}
    assert run(["plan", "--with", new, "--kubeconfig", kubeconfig, "-n", "other"]) == 0


def lack(resource: str, namespace: str = "") -> Unreadable:
    error = EnvironmentLackError(f"no permission to list {resource}", "have it given")
    return Unreadable(resource=resource, namespace=namespace, error=error)


@pytest.mark.parametrize(
    ("lacking", "code"),
    [
        pytest.param(lack("deployments.apps", "finance"), 0, id="some workloads"),
        pytest.param(lack("namespaces", "finance"), 1, id="its namespace"),
        pytest.param(lack(POLICIES, "finance"), 1, id="its policies"),
        pytest.param(lack(POLICIES, "istio-system"), 1, id="mesh-wide policies"),
    ],
)
@pytest.mark.parametrize("mode", ["STRICT", ""], ids=["decided near", "decided by default"])
def test_explain_answers_only_what_the_right_that_lacks_could_not_change(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kubeconfig: str,
    write: Callable[[str, str], str],
    *,
    lacking: Unreadable,
    code: int,
    mode: str,
) -> None:

    text = f"{WORLD}---\n{POLICY.replace('default', 'default, namespace: finance')}"
    manifests = load([Path(write("cluster.yaml", text if mode else WORLD))])
    found = ClusterManifests(manifests=manifests, unreadable=(lacking,))
    monkeypatch.setattr(by_reviews, "read_objects", lambda *_, **__: found)
    if mode and lacking.namespace == "istio-system":
        code = 0
    assert run(["explain", "web", "--kubeconfig", kubeconfig]) == code
    assert (f"no permission to list {lacking.resource}" in capsys.readouterr().err) is bool(code)


@pytest.mark.parametrize(
    ("name", "namespace", "full"),
    [
        pytest.param("web", "finance", "finance/web", id="a name"),
        pytest.param("app=web", "finance", "finance/app=web", id="labels"),
        pytest.param(
            "app.kubernetes.io/name=web",
            "finance",
            "finance/app.kubernetes.io/name=web",
            id="a label with a domain",
        ),
        pytest.param("shop/web", "finance", "shop/web", id="a full name"),
        pytest.param("shop/app=web", "finance", "shop/app=web", id="labels of a namespace"),
        pytest.param("web", None, "web", id="no namespace"),
        pytest.param("/", "finance", "finance//", id="nonsense"),
    ],
)
def test_a_workload_is_named_with_or_without_its_namespace(
    name: str, namespace: str | None, full: str
) -> None:
    assert full_name(name, namespace) == full


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("Pod/web", "Pod/finance/web"),
        ("Pod/shop/web", "Pod/shop/web"),
        ("namespace/shop", "namespace/shop"),
        ("Pod", "Pod"),
    ],
)
def test_an_object_is_named_with_or_without_its_namespace(name: str, full: str) -> None:
    assert full_object_name(name, "finance") == full
    assert full_object_name(name, None) == name


@pytest.mark.parametrize("ready", [True, False])
def test_status_exits_by_whether_something_is_missing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kubeconfig: str,
    *,
    ready: bool,
) -> None:
    report = ClusterStatus(
        ready=ready,
        waiting_for=() if ready else ("a controller",),
        trust_domain="cluster.local",
        root_namespace="istio-system",
        namespace="troth-system",
        controller=None,
        trust_bundle=None,
        nodes=None,
        policies=(),
        pods=(),
        problems=(),
    )
    monkeypatch.setattr(ClusterMesh, "status", lambda *_, **__: report)
    assert run(["status", "--kubeconfig", kubeconfig]) == (0 if ready else 1)
    assert ("waiting for a controller" in capsys.readouterr().out) is not ready


def test_the_plugin_has_the_commands_that_know_clusters_and_no_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = typer.main.get_command(command_tree(as_plugin=True))
    assert set(tree.commands) == {  # type: ignore[attr-defined]  # it is a group
        *("audit", "ca", "check", "events", "explain", "plan", "status", "trace", "validate"),
        *("ui", "version", "why"),
    }
    assert run([], as_plugin=True) == 0
    assert "Usage: kubectl troth" in capsys.readouterr().out
    assert run(["up"], as_plugin=True) == 2


@pytest.mark.parametrize(
    ("program", "usage"),
    [("/usr/bin/kubectl-troth", "kubectl troth"), ("/usr/bin/troth", "troth")],
)
def test_the_programs_name_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str, usage: str
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 0
    assert f"Usage: {usage} " in capsys.readouterr().out
