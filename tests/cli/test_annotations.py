"""What a pull request check shows, in GitHub's words and as SARIF."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml

from troth.cli.annotations import Annotation, as_github
from troth.cli.app import run
from troth.errors import Location, Severity

WRONG = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: x, namespace: finance}
spec: {mtls: {mode: STRIKT}}
"""
EXAMPLES = Path(__file__).parents[2] / "examples"
STRICT = str(EXAMPLES / "policies/strict-namespace.yaml")
PLAN = ["plan", "-f", str(EXAMPLES / "finance"), "--with", STRICT]


@pytest.fixture
def wrong(tmp_path: Path) -> str:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    return str(path)


def test_a_problem_is_an_annotation_at_its_line(
    capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    assert run(["validate", wrong, "-o", "github"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"::error title=troth%3A manifest,file={wrong},line=4::")
    assert line.endswith('spec.mtls.mode: is "STRIKT"; write STRICT, in exactly these letters')


def test_a_problem_is_a_result_of_sarif(capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    assert run(["validate", wrong, "-o", "sarif"]) == 1
    document = json.loads(capsys.readouterr().out)
    (result,) = document["runs"][0]["results"]
    assert (document["version"], result["ruleId"], result["level"]) == (
        "2.1.0",
        "manifest",
        "error",
    )
    place = result["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == (wrong, 4)


def test_what_a_plan_breaks_is_told_at_the_policy_that_decides(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run([*PLAN, "-o", "github"]) == 1
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"::error title=troth%3A breaks,file={STRICT},line=2::")
    assert first.endswith(
        "Connections of Pod legacy/cron would be refused: "
        "port 8080 of Deployment finance/payments, PERMISSIVE to STRICT"
    )
    assert run([*PLAN, "-o", "sarif"]) == 1
    results = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    assert {result["ruleId"] for result in results} == {"breaks"}


def test_nothing_in_a_manifest_ends_an_annotation_or_begins_another() -> None:
    place = Location("a,b:c.yaml", 1)
    (line,) = as_github([Annotation("x", Severity.WARNING, "50%\n::error::y", place)])
    assert line == "::warning title=troth%3A x,file=a%2Cb%3Ac.yaml,line=1::50%25%0A::error::y"


def test_the_example_workflow_runs_commands_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    workflow = yaml.safe_load((EXAMPLES / "pull-request/troth.yaml").read_text())
    steps = workflow["jobs"]["policies"]["steps"]
    commands = [step["run"] for step in steps if step.get("run", "").startswith("troth ")]
    assert len(commands) == 2
    for command in commands:
        options = [word for word in shlex.split(command)[1:] if word != "manifests"]
        assert run([options[0], "--help"]) == 0
        told = capsys.readouterr().out
        assert all(option in told for option in options[1:] if option.startswith("-"))
