"""What holds for every command: exit codes, and what goes where."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import typer
from tests.columns import WIDTHS, lost

from troth import __version__
from troth.cli.app import COMMANDS, command_tree, run

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: finance}
spec: {mtls: {mode: STRICT}}
"""


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return str(path)


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_help_loses_nothing_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    columns: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run([command, "--help"]) == 0
    shown = re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= columns
    for option in typer.main.get_command(command_tree()).commands[command].params:  # type: ignore[attr-defined]  # it is a group
        names = [name for name in option.opts if name.startswith("-")]
        assert not lost(" ".join([*names, option.help or ""]), shown)


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_list_of_commands_loses_nothing_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(["--help"]) == 0
    shown = re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out)
    for name, command in typer.main.get_command(command_tree()).commands.items():  # type: ignore[attr-defined]  # it is a group
        first = (command.help or "").partition("\n")[0].replace("`", "")
        assert not lost(f"{name} {first}", shown)


def test_the_list_of_commands_says_what_their_own_help_begins_with() -> None:
    (listed, whole) = (typer.main.get_command(command_tree(first)) for first in ("--help", ""))
    for name, command in whole.commands.items():  # type: ignore[attr-defined]  # it is a group
        assert listed.commands[name].help == command.help.partition("\n")[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["status", "why", "audit", "events"])
def test_without_a_mesh_the_error_says_so_and_no_more(
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TROTH_STATE_DIR", str(tmp_path / "none"))
    assert run([command]) == 1
    assert capsys.readouterr().err.startswith("error: no mesh is running; start one with: troth up")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"troth {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_found_in_the_module_that_is_named_for_it(name: str) -> None:
    (tree, whole) = (typer.main.get_command(command_tree(first)) for first in (name, ""))
    assert name in tree.commands  # type: ignore[attr-defined]  # it is a group
    assert list(whole.commands) == list(COMMANDS)  # type: ignore[attr-defined]


def test_the_node_agents_command_loads_nothing_of_the_others() -> None:
    program = (
        "import sys; from troth.cli.app import command_tree; command_tree('node');"
        "print(*{'lightkube', 'rich', 'structlog', 'yaml', 'troth.explain'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert run([flag]) == 0
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in shown] == []


def test_nothing_at_all_asked_is_answered_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    captured = capsys.readouterr()
    assert [name for name in COMMANDS if name not in captured.out] == []
    assert captured.err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run([command, "-h"]) == 0
    captured = capsys.readouterr()
    assert f"troth {command}" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["vlidate"], "No such command 'vlidate'", id="unknown command"),
        pytest.param(["validate"], "--filename", id="no -f"),
        pytest.param(["validate", "--frobnicate"], "--frobnicate", id="unknown option"),
        pytest.param(["validate", "-f", "/nonexistent"], "/nonexistent", id="no such path"),
        pytest.param(["validate", "-f", "-", "-o", "xml"], "xml", id="no such output"),
        pytest.param(["explain"], "NAMESPACE/WORKLOAD", id="no workload"),
    ],
)
def test_wrong_use_is_told_on_standard_error_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.out == ""


@pytest.mark.usefixtures("no_mesh")
@pytest.mark.parametrize(
    "arguments", [["status"], ["events"], ["explain", "a/b"], ["exec", "a/b", "--", "true"]]
)
def test_without_a_mesh_commands_that_need_one_say_how_to_start_it(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(arguments) == 1
    captured = capsys.readouterr()
    assert "no mesh is running; start one with: troth up" in captured.err
    assert captured.out == ""


def test_json_is_alone_on_standard_output(
    capsys: pytest.CaptureFixture[str], policy: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("kind: Pod\n")

    assert run(["explain", "finance/app=web", "-f", policy, "-f", str(bad), "-o", "json"]) == 1

    captured = capsys.readouterr()
    assert json.loads(captured.out)["mode"] == "STRICT"
    assert f"left out: {bad}:1: object: apiVersion: is missing" in captured.err


def test_a_good_answer_in_a_pipe_has_no_colours_and_no_chatter(
    capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    assert run(["explain", "finance/app=web", "-f", policy]) == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out
    assert captured.err == ""

    assert run(["validate", "-f", policy]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "looked at 1 PeerAuthentication: 0 errors, 0 warnings\n"


def test_validate_takes_paths_with_and_without_an_option(
    capsys: pytest.CaptureFixture[str], policy: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(POLICY.replace("STRICT", "STRIKT").replace("finance", "legacy"))
    for arguments in (["-f", policy, str(bad)], [policy, str(bad)], ["-f", policy, "-f", str(bad)]):
        assert run(["validate", *arguments]) == 1
        assert 'is "STRIKT"' in capsys.readouterr().out


def test_the_process_exits_with_the_commands_code(policy: str) -> None:
    def code(*arguments: str) -> int:
        program = "from troth.cli import main; main()"
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, check=False, capture_output=True).returncode

    assert code("validate", "-f", policy) == 0
    assert code("validate", "-f", "/nonexistent") == 2
    assert code("plan", "-f", policy, "--without", "PeerAuthentication/finance/default") == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["validate"], "error: say what to look at: --filename PATH, or a cluster by --context\n"),
        (["plan"], "error: say what would change: --with or --without\n"),
        (["statuss"], "No such command 'statuss'. Did you mean 'status'?"),
        (["status", "--contxt=x"], "--contxt"),
    ],
)
def test_wrong_use_is_told_in_our_own_words(
    capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert run(arguments) == 2
    told = capsys.readouterr().err
    assert complaint.lower() in told.lower()
    assert "Invalid value" not in told


def test_the_version_is_told_to_people_and_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    assert capsys.readouterr().out == f"troth {__version__}\n"
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"troth {__version__}\n"
    assert run(["version", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "troth/version/v1",
        "version": __version__,
    }
