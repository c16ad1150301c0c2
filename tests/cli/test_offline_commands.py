"""validate, explain and plan as a person or a CI job runs them."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest
from tests.cli.manifests import WORLD

from troth.ask import by_socket
from troth.cli import manifests
from troth.cli.app import run
from troth.traffic.connection import Outcome, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

POLICY = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: finance}
spec: {mtls: {mode: STRICT}}
"""
UNMATCHED = POLICY.replace("spec: {", "spec: {selector: {matchLabels: {app: nobody}}, ")
BROKEN = POLICY.replace("STRICT", "strict")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a file and tell its path."""

    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.fixture
def world(file: Callable[[str, str], str]) -> str:
    return file("world.yaml", WORLD)


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


@pytest.mark.parametrize(
    ("text", "flags", "code"),
    [
        pytest.param(WORLD, [], 0, id="good"),
        pytest.param(WORLD, ["--strict"], 0, id="good, --strict"),
        pytest.param(WORLD + "---\n" + UNMATCHED, [], 0, id="a warning"),
        pytest.param(WORLD + "---\n" + UNMATCHED, ["--strict"], 1, id="a warning, --strict"),
        pytest.param(WORLD + "---\n" + BROKEN, [], 1, id="an error"),
        pytest.param("", [], 0, id="empty"),
    ],
)
def test_validate_exits_by_what_it_finds(
    file: Callable[[str, str], str], text: str, flags: list[str], code: int
) -> None:
    path = file("f.yaml", text)

    assert run(["validate", "-f", path, *flags]) == code
    assert run(["validate", "-f", path, *flags, "-o", "json"]) == code


def test_validate_tells_every_problem_on_a_line_of_its_own(
    file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = file("f.yaml", "\n---\n".join((WORLD, UNMATCHED, BROKEN.replace("default", "other"))))

    run(["validate", "-f", path])

    assert capsys.readouterr().out.splitlines() == [
        (
            f"{path}:16: PeerAuthentication finance/default: spec.selector.matchLabels: doesn't "
            "match the only workload given in namespace finance; they have app=web (warning)"
        ),
        (
            f"{path}:25: PeerAuthentication finance/other: spec.mtls.mode: "
            'is "strict"; write STRICT, in exactly these letters'
        ),
    ]


def test_validate_takes_what_a_shell_makes_of_a_pattern(
    file: Callable[[str, str], str], world: str
) -> None:
    assert run(["validate", "-f", world, file("policy.yaml", BROKEN)]) == 1


def test_an_object_in_two_files_is_told_with_both(
    file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = file("1.yaml", POLICY), file("2.yaml", POLICY)

    assert run(["validate", "-f", one, "-f", two]) == 1
    assert f"{two}:1: " in (shown := capsys.readouterr().out)
    assert f"is defined twice, first at {one}:1" in shown


def test_a_dash_is_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(BROKEN.encode()))

    assert run(["validate", "-f", "-"]) == 1
    assert capsys.readouterr().out.startswith("<stdin>:4: PeerAuthentication finance/default: ")


def test_standard_input_is_bounded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(POLICY.encode()))
    monkeypatch.setattr(manifests, "LARGEST_STDIN", 10)

    assert run(["validate", "-f", "-"]) == 2
    assert "is more than 10 bytes; give files instead" in capsys.readouterr().err


def test_explain_prints_the_derivation(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", "finance/web", "-f", world, "-f", file("p.yaml", POLICY)]) == 0
    assert "So the mode is STRICT, from finance/default (namespace)." in capsys.readouterr().out


def test_explain_takes_the_names_of_the_mesh(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    policy = file("p.yaml", POLICY.replace("namespace: finance", "namespace: root"))
    names = ["--root-namespace", "root", "--trust-domain", "prod.example"]

    assert run(["explain", "finance/web", "-f", world, "-f", policy, *names, "-o", "json"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert report["decided_by"] == {"scope": "mesh", "policy": "root/default"}
    assert report["workload"]["spiffe_id"] == "spiffe://prod.example/ns/finance/sa/default"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["explain", "finance/wbe", "-f", "{world}"], id="no such workload"),
        pytest.param(["explain", "finance/web", "--root-namespace", "x"], id="a running mesh's"),
        pytest.param(
            ["explain", "finance/web", "-f", "{world}", "--trust-domain", "Prod!"], id="no domain"
        ),
        pytest.param(["plan", "-f", "{world}"], id="no change"),
        pytest.param(["plan", "-f", "{world}", "--without", "Pod/finance/x"], id="nothing there"),
        pytest.param(["plan", "-f", "-", "--with", "-"], id="standard input twice"),
    ],
)
def test_wrong_use_is_told_and_nothing_else(
    world: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([argument.format(world=world) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")


def test_plan_fails_a_change_that_breaks_clients(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "-f", world, "--with", file("p.yaml", POLICY), "-o", "json"]) == 1

    report = json.loads(capsys.readouterr().out)
    assert report["would_break"]
    assert [client["name"] for client in report["breaks"][0]["clients"]] == ["cron"]


def test_plan_passes_a_change_that_breaks_nobody(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    policy = file("p.yaml", POLICY)

    assert run(["plan", "-f", world, "--with", policy, "--without", "Pod/legacy/cron"]) == 0
    assert "PERMISSIVE   STRICT" in capsys.readouterr().out


STRICT_WORLD = f"{WORLD}---\n{POLICY}"
DISABLED = POLICY.replace("STRICT", "DISABLE")
OUTSIDE = WORLD.split("---")[0].replace("enabled", "disabled")


@pytest.mark.parametrize(
    ("change", "flags", "code", "said"),
    [
        pytest.param(DISABLED, [], 1, "Connections would lose their encryption", id="DISABLE"),
        pytest.param(OUTSIDE, [], 1, "Connections would lose their encryption", id="out"),
        pytest.param(DISABLED, ["--fail-on", "breaks"], 0, "less protected", id="not asked"),
        pytest.param(DISABLED, ["--fail-on", "none"], 0, "less protected", id="nothing asked"),
        pytest.param(
            POLICY.replace("STRICT", "PERMISSIVE"),
            [],
            0,
            "workload would be less protected",
            id="weaker",
        ),
        pytest.param(
            POLICY.replace("STRICT", "PERMISSIVE"),
            ["--fail-on", "breaks,unencrypted,weaker"],
            1,
            "1 workload would be less protected",
            id="weaker, and asked",
        ),
    ],
)
def test_plan_fails_by_what_is_lost_and_ends_with_it(
    file: Callable[[str, str], str],
    capsys: pytest.CaptureFixture[str],
    *,
    change: str,
    flags: list[str],
    code: int,
    said: str,
) -> None:
    files = ["-f", file("strict.yaml", STRICT_WORLD), "--with", file("p.yaml", change)]

    assert run(["plan", *files, *flags]) == code
    assert said in capsys.readouterr().out.splitlines()[-1]


def test_plan_fails_on_nothing_that_it_does_not_know(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "-f", world, "--with", file("p.yaml", POLICY), "--fail-on", "break"]) == 2
    assert "'break' is none of breaks, unencrypted, weaker and none" in capsys.readouterr().err


def test_plan_names_what_it_cannot_know_and_does_not_pass(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    kafka = "apiVersion: kafka.strimzi.io/v1beta2\nkind: Kafka\nmetadata: {name: k, namespace: a}\n"
    files = ["-f", world, "-f", file("kafka.yaml", kafka), "--with", file("p.yaml", POLICY)]
    change = [*files, "--without", "Pod/legacy/cron"]

    assert run(["plan", *change]) == 1
    shown = capsys.readouterr().out
    assert "Kafka.kafka.strimzi.io a/k   its operator makes the pods, from no template" in shown
    assert shown.splitlines()[-1].startswith("Breaks: unknown. ")
    assert run(["plan", *change, "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "unknown"


def test_plan_refuses_a_change_with_errors(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "-f", world, "--with", file("p.yaml", BROKEN)]) == 2
    assert 'spec.mtls.mode: is "strict"' in capsys.readouterr().err


def test_plan_warns_of_a_policy_that_does_not_do_what_it_seems_to(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "-f", world, "--with", file("p.yaml", UNMATCHED), "-o", "json"]) == 0
    captured = capsys.readouterr()
    (warning,) = json.loads(captured.out)["warnings"]
    assert warning["path"] == "spec.selector.matchLabels"
    assert "warning: " in captured.err


def test_explain_does_not_pass_while_a_policy_has_an_error(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", "-f", world, "finance/web"]) == 0
    assert run(["explain", "-f", world, "-f", file("p.yaml", BROKEN), "finance/web"]) == 1
    captured = capsys.readouterr()
    assert 'spec.mtls.mode: is "strict"' in captured.out
    assert captured.err == ""


HELM = """\
{{- if .Values.strict }}
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: {{ .Release.Namespace }}}
spec: {mtls: {mode: STRICT}}
{{- end }}
"""
SOPS = """\
data: ENC[AES256_GCM,data:cXVhY2sK,iv:d2Fy,tag:bWVoCg==,type:str]
sops: {mac: ENC[AES256_GCM,data:bWFjCg==,type:str], version: 3.9.0}
"""


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(POLICY.replace("kind", "\tkind"), id="a tab"),
        pytest.param(HELM, id="a Helm template"),
        pytest.param(SOPS, id="a file that SOPS has encrypted"),
        pytest.param(POLICY + "\0", id="a NUL"),
        pytest.param(POLICY + "spec: {}\n", id="a duplicate key"),
        pytest.param(POLICY.replace("name: default, ", ""), id="no name"),
        pytest.param(POLICY.replace("PeerAuth", "PeerOauth"), id="a misspelled kind"),
        pytest.param(POLICY.replace("security.istio.io", "security.istio"), id="another group"),
        pytest.param(
            WORLD.split("---")[0].replace("enabled", '"!"'), id="its namespace has an error"
        ),
    ],
)
def test_explain_does_not_pass_while_something_hides_what_could_count(
    world: str, file: Callable[[str, str], str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["-f", file("hidden.yaml", text), "-f", world]

    assert run(["explain", *files, "finance/web", "-o", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert "hidden.yaml" in {
        each["location"]["file"].rpartition("/")[2] for each in report["problems"]
    }
    assert run(["explain", *files, "finance/web"]) == 1
    assert "This may be wrong: " in capsys.readouterr().out


def test_explain_does_not_pass_by_a_directory_without_manifests(
    world: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "strict.yaml.txt").write_text(POLICY)

    assert run(["explain", "-f", world, "-f", str(tmp_path / "empty"), "finance/web"]) == 1
    assert "has no manifests in it" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(WORLD.split("---")[1].replace("image: app", "image: 1"), id="another pod"),
        pytest.param(
            WORLD.split("---")[0].replace("finance", "other").replace("enabled", '"!"'),
            id="another namespace",
        ),
        pytest.param(BROKEN.replace("finance", "other"), id="a policy for another namespace"),
    ],
)
def test_explain_passes_by_errors_of_what_cannot_count(
    world: str, file: Callable[[str, str], str], text: str
) -> None:
    other = file("other.yaml", text.replace("name: web", "name: other"))

    assert run(["explain", "-f", other, "-f", world, "finance/web"]) == 0


def test_plan_does_not_pass_while_errors_hide_a_part(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = file("broken.yaml", BROKEN)
    change = [
        "--with",
        file("p.yaml", POLICY.replace("default", "open").replace("STRICT", "UNSET")),
    ]

    assert run(["plan", "-f", world, *change]) == 0
    assert run(["plan", "-f", world, "-f", broken, *change]) == 1
    assert "left out: " in capsys.readouterr().err


OLD = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: old, namespace: finance, creationTimestamp: "2024-01-31T12:00:00Z"}
spec: {mtls: {mode: PERMISSIVE}}
"""
UNDATED = OLD.replace(', creationTimestamp: "2024-01-31T12:00:00Z"', "")


def changed_modes(text: str) -> list[str]:
    return [each["to"] for each in json.loads(text)["changes"]]


@pytest.mark.parametrize(
    ("current", "flags"),
    [
        pytest.param(OLD, [], id="the policy in force has a date"),
        pytest.param(
            WORLD.replace("name: web,", "name: web, creationTimestamp: 2024-01-31T12:00:00Z,")
            + "---\n"
            + UNDATED,
            [],
            id="another object has a date",
        ),
        pytest.param(UNDATED, ["--applied-now"], id="it is asked for"),
    ],
)
def test_plan_takes_a_new_policy_for_the_youngest_where_files_stand_for_a_cluster(
    world: str,
    file: Callable[[str, str], str],
    capsys: pytest.CaptureFixture[str],
    current: str,
    flags: list[str],
) -> None:
    files = ["-f", file("current.yaml", current)]
    if "kind: Pod" not in current:
        files += ["-f", world]
    new = file("new.yaml", POLICY.replace("default", "a"))

    assert run(["plan", *files, "--with", new, *flags, "-o", "json"]) == 0
    assert changed_modes(capsys.readouterr().out) == []


@pytest.mark.parametrize("null", ["", ", creationTimestamp: null"])
def test_plan_compares_by_name_where_no_object_has_a_date(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str], null: str
) -> None:
    old = file("old.yaml", UNDATED.replace("finance}", f"finance{null}}}"))
    new = file("new.yaml", POLICY.replace("default", "a"))

    assert run(["plan", "-f", world, "-f", old, "--with", new, "-o", "json"]) == 1
    assert changed_modes(capsys.readouterr().out) == ["STRICT", "STRICT"]


def test_plan_keeps_the_age_of_a_policy_that_is_replaced(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    younger = OLD.replace("old", "zz").replace("2024", "2025").replace("PERMISSIVE", "DISABLE")
    files = ["-f", world, "-f", file("old.yaml", OLD), "-f", file("younger.yaml", younger)]
    new = file("new.yaml", UNDATED.replace("PERMISSIVE", "STRICT"))

    assert run(["plan", *files, "--with", new, "-o", "json"]) == 1
    assert changed_modes(capsys.readouterr().out) == ["STRICT", "STRICT"]


def test_explain_takes_a_policy_without_a_date_for_younger_than_one_of_a_cluster(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["-f", world, "-f", file("old.yaml", OLD), "-f", file("new.yaml", POLICY)]

    assert run(["explain", *files, "finance/web", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["decided_by"]["policy"] == "finance/old"


def _event(client: str | None) -> dict[str, object]:
    end = {"address": "192.0.2.7", "port": 8080, "pod": None}
    return {
        "time": "2026-01-31T12:00:00Z",
        "outcome": Outcome.PLAINTEXT,
        "reason": "none",
        "detail": "",
        "side": Side.SERVER,
        "source": {**end, "workload": client},
        "destination": {**end, "workload": "finance/web"},
        **dict.fromkeys(("peer", "claimed_peer", "mode", "decided_by")),
        **dict.fromkeys(("tls_version", "tls_cipher", "tls_group"), ""),
        "duration_ms": 1,
    }


@pytest.mark.parametrize(("observed", "code"), [([], 0), (["--observed"], 1)])
def test_plan_observed_counts_clients_that_no_manifest_has(
    world: str,
    file: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
    observed: list[str],
    code: int,
) -> None:
    def call(_path: Path, op: str, *, follow: bool) -> Iterator[dict[str, object]]:
        assert (op, follow) == ("events", False)
        yield _event(None)

    monkeypatch.setattr(by_socket, "call", call)
    change = ["--with", file("p.yaml", POLICY), "--without", "Pod/legacy/cron"]

    assert run(["plan", "-f", world, *change, *observed]) == code


@pytest.mark.usefixtures("no_mesh")
def test_plan_observed_goes_on_without_a_mesh(
    world: str, file: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    change = ["--with", file("p.yaml", POLICY), "--without", "Pod/legacy/cron"]

    assert run(["plan", "-f", world, *change, "--observed"]) == 0
    assert "nothing observed: no mesh is running" in capsys.readouterr().err
