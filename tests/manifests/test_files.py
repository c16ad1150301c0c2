from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from troth.errors import Severity
from troth.manifests import files
from troth.manifests.files import STDIN, load
from troth.manifests.yaml import read_documents

if TYPE_CHECKING:
    from troth.errors import Problem
    from troth.manifests.yaml import Document


def account(name: str) -> str:
    return f"{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}}}}}\n"


def write(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(account(name))
    return path


def names(*paths: Path, stdin: bytes | None = None) -> list[str]:
    manifests = load(paths, stdin)
    assert manifests.problems == ()
    return [key.removeprefix("default/") for key in manifests.service_accounts]


def test_a_directory_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    write(tmp_path / "b.yml", "b")
    write(tmp_path / "c" / "a.json", "ca")
    write(tmp_path / "a.yaml", "a")
    write(tmp_path / "c.yaml", "c")
    assert names(tmp_path) == ["a", "b", "ca", "c"]


@pytest.mark.parametrize("name", [".hidden.yaml", ".git/a.yaml", "a.txt", "a.yaml~", "a.yaml.swp"])
def test_other_and_hidden_files_are_left_alone(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, "a")
    write(tmp_path / "b.yaml", "b")
    assert names(tmp_path) == ["b"]


def test_a_directory_without_manifests_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (problem,) = load([tmp_path]).problems
    assert problem.severity is Severity.WARNING
    assert "has no manifests in it" in problem.found


def test_a_named_file_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    assert names(write(tmp_path / ".manifest", "a")) == ["a"]


def test_paths_keep_their_order(tmp_path: Path) -> None:
    b, a = write(tmp_path / "b.yaml", "b"), write(tmp_path / "a.yaml", "a")
    assert names(b, a) == ["b", "a"]


def test_a_file_is_read_once_however_it_is_reached(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", "a")
    (tmp_path / "link.yaml").symlink_to(a)
    assert names(a, tmp_path, tmp_path / "link.yaml") == ["a"]


def test_a_mounted_config_map_is_read(tmp_path: Path) -> None:
    write(tmp_path / "..2026" / "a.yaml", "a")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert names(tmp_path) == ["a"]


def test_a_circle_of_directories_ends(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "a")
    (tmp_path / "circle").symlink_to(tmp_path)
    assert names(tmp_path) == ["a"]


def test_a_dash_is_standard_input(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", "a")
    assert names(a, STDIN, stdin=account("in").encode()) == ["a", "in"]


def test_problems_of_standard_input_say_so() -> None:
    (problem,) = load([STDIN], b"a: [").problems
    assert str(problem.location) == "<stdin>:1"


def test_a_missing_path_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    manifests = load([path, write(tmp_path / "a.yaml", "a")])
    assert list(manifests.service_accounts) == ["default/a"]
    assert list(map(str, manifests.problems)) == [
        (
            f"{path}:1: file: can't be read: there is no such file or directory; "
            "correct the path or its permissions"
        )
    ]
    assert manifests.unread == {str(path)}


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    (problem,) = load([tmp_path]).problems
    assert problem.found == "can't be read: it is not a regular file"


def test_a_dangling_link_in_a_directory_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("none")
    (problem,) = load([tmp_path]).problems
    assert problem.found == "can't be read: it links to nothing"


def test_a_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST_FILE", 10)
    write(tmp_path / "a.yaml", "a")
    (problem,) = load([tmp_path]).problems
    assert problem.found == "can't be read: it is larger than 10 bytes"


def test_only_files_with_new_content_are_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def counting(data: bytes | str, file: str) -> tuple[list[Document], list[Problem]]:
        parsed.append(Path(file).name)
        return read_documents(data, file)

    monkeypatch.setattr(files, "read_documents", counting)
    write(tmp_path / "a.yaml", "a")
    write(tmp_path / "b.yaml", "b")
    manifests = files.ManifestFiles([tmp_path])
    first = manifests.load()
    assert manifests.load() == first
    write(tmp_path / "b.yaml", "new")
    assert list(manifests.load().service_accounts) == ["default/a", "default/new"]
    assert parsed == ["a.yaml", "b.yaml", "b.yaml"]


def said(*paths: Path) -> list[str]:
    """What is wrong, without the place of the files."""
    return [
        f"{each.location}: {each.subject}: {each.found}; {each.wanted}".replace(f"{where}/", "")
        for each in load(paths).problems
        for where in (os.path.commonpath([path.parent for path in paths]),)
    ]


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A Helm chart with another one in it."""
    root = tmp_path / "my shop"
    for name, text in {
        "Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.0.0\n",
        "values.yaml": "replicas: 2\n",
        "values-production.yaml": "replicas: 3\n",
        "ci/test-values.yaml": "replicas: 1\n",
        "templates/pod.yaml": "{{ if .Values.a }}\nkind: Pod\n{{ end }}\n",
        "templates/quoted.yaml": 'kind: Pod\nmetadata: {name: "{{ .Release.Name }}"}\n',
        "charts/db/Chart.yaml": "apiVersion: v2\nname: db\nversion: 1.0.0\n",
        "charts/db/values.yaml": "{}\n",
        "charts/db/templates/pod.yaml": "kind: {{ .Values.kind }}\n",
        "crds/account.yaml": account("in-crds"),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_helm_chart_is_named_once_with_the_command_that_renders_it(chart: Path) -> None:
    write(chart.parent / "other.yaml", "beside")
    manifests = load([chart.parent])
    (problem,) = manifests.problems
    assert str(problem) == (
        f"{chart}/Chart.yaml:1: Helm chart {chart}: is not rendered, so nothing of it is read; "
        f"give the output of: helm template '{chart}'"
    )
    assert list(manifests.service_accounts) == ["default/in-crds", "default/beside"]
    assert manifests.unread == {str(chart / "Chart.yaml")}


@pytest.mark.parametrize(
    "name",
    ["Chart.yaml", "values.yaml", "templates/pod.yaml", "templates", "charts/db/values.yaml"],
)
def test_a_part_of_a_helm_chart_names_the_whole_chart(name: str, chart: Path) -> None:
    (problem,) = load([chart / name]).problems
    assert problem.wanted == f"give the output of: helm template '{chart}'"


def test_the_chart_is_found_from_inside(chart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(chart / "templates")
    (problem,) = load([Path("pod.yaml")]).problems
    assert problem.wanted == f"give the output of: helm template '{chart}'"
    monkeypatch.chdir(chart)
    (problem,) = load([Path("templates")]).problems
    assert problem.wanted == "give the output of: helm template ."


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{{- if .Values.a }}\nkind: Pod\n{{- end }}\n", 1),
        ("kind: Pod\nmetadata:\n  name: {{ .Release.Name }}\n", 3),
        ('kind: Pod\nmetadata:\n  name: x\n  labels:\n    {{- include "a" . | nindent 4 }}\n', 5),
        ('kind: Pod\nmetadata:\n  name: "{{ .Release.Name }}-web"\n', 3),
        ("kind: Pod\nmetadata: {name: x, labels: {a: '{{ .Chart.Name }}'}}\n", 2),
    ],
)
def test_a_template_without_its_chart_is_told_from_bad_yaml(
    text: str, line: int, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    (problem,) = said(tmp_path / "a.yaml")
    assert problem.startswith(f"a.yaml:{line}: YAML document 1: is a Helm template; ")
    assert problem.endswith("give the output of: helm template CHART")


def test_braces_that_are_not_helms_are_no_template(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, annotations: {b: '{{ $value }}'}}, "
        "data: {rule: '{{ if .Values }}'}}"
    )
    assert said(tmp_path / "a.yaml") == []


def test_values_of_helm_are_told_from_manifests(tmp_path: Path) -> None:
    (tmp_path / "values-eu.yaml").write_text("replicas: 2\n")
    (problem,) = said(tmp_path / "values-eu.yaml")
    assert "is not a manifest, but looks like the values of a Helm chart; " in problem
    assert problem.endswith("give the output of: helm template -f values-eu.yaml CHART")


def test_what_sops_has_encrypted_names_the_command_that_decrypts_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {a: 'ENC[AES256_GCM,data:x]'}\n"
        "sops: {mac: 'ENC[AES256_GCM,data:x]', version: 3.9.0}\n"
    )
    assert said(tmp_path / "a.yaml") == [
        "a.yaml:1: YAML document 1: is encrypted by SOPS; give the output of: sops -d a.yaml"
    ]
    assert load([tmp_path]).unread == {str(tmp_path / "a.yaml")}


@pytest.mark.parametrize("api_version", ["v1", "template.openshift.io/v1"])
def test_an_openshift_template_names_the_command_that_processes_it(
    tmp_path: Path, api_version: str
) -> None:
    (tmp_path / "a.yaml").write_text(
        f"apiVersion: {api_version}\nkind: Template\nmetadata: {{name: a}}\nobjects:\n"
        "- {apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: a}}\n"
    )
    (problem,) = said(tmp_path / "a.yaml")
    assert problem == (
        "a.yaml:1: YAML document 1: is an OpenShift template, so none of its objects is read; "
        "give the output of: oc process --local -f a.yaml"
    )
    assert load([tmp_path]).unread == {str(tmp_path / "a.yaml")}


def test_a_kustomization_that_only_lists_its_files_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "a")
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml]\n")
    assert names(tmp_path) == ["a"]


def test_a_field_without_a_value_makes_no_kustomization_of_a_list(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "a")
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml]\ncomponents:\n# - ../b\n")
    assert names(tmp_path) == ["a"]


def test_of_kustomizations_within_each_other_the_outer_one_is_named(tmp_path: Path) -> None:
    for name in ("", "components/a", "components/b"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "kustomization.yaml").write_text("namePrefix: a-\n")
    (problem,) = load([tmp_path]).problems
    assert problem.subject == f"kustomization {tmp_path}"
    assert len(load([tmp_path / "components"]).problems) == 2


def test_a_component_of_kustomizations_is_no_business_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "a")
    (tmp_path / "kustomization.yaml").write_text("kind: Component\nnamePrefix: a-\n")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "resources: [a.yaml]\nnamespace: shop\n",
        "resources: [../base]\n",
        "resources: [https://example.org/a.yaml]\n",
        "patches: [{path: b.yaml}]\n",
        f"resources: [{'a' * 5000}]\n",
        'resources: ["a\\0b"]\n',
        "{{ broken\n",
    ],
)
def test_a_kustomization_names_the_command_that_renders_it(text: str, tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "a")
    (tmp_path / "kustomization.yaml").write_text(text)
    (problem,) = load([tmp_path]).problems
    assert problem.severity is Severity.ERROR
    assert problem.wanted == f"give the output of: kubectl kustomize {tmp_path}"


def test_patches_of_a_kustomization_are_not_taken_for_manifests(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.yaml", name)
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [a.yaml]\npatches: [{path: ./b.yaml}]\npatchesStrategicMerge: [c.yaml]\n"
    )
    assert list(load([tmp_path]).service_accounts) == ["default/a"]


def test_a_kustomization_by_itself_says_nothing_of_its_files(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "a")
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml]\n")
    (problem,) = load([tmp_path / "kustomization.yaml"]).problems
    assert problem.found == "is not rendered, so what it adds and changes isn't seen"
