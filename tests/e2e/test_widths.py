"""What a command reports on a terminal of any width is all of what it reports to a file."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from typing import TYPE_CHECKING

import pytest
from tests.columns import FULL, WIDTHS, lost
from tests.e2e.client import PROGRAMS
from tests.e2e.harness import TROTH, Mesh
from tests.e2e.manifests import deployment, document, namespace, policy, server, service
from tests.e2e.policies import clients

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.e2e

NAME = "payments-of-the-north-eastern-region"
OBJECTS = [
    namespace("finance", mesh=True),
    namespace("legacy", mesh=False),
    *server("finance/web", "http:8080"),
    *deployment(f"finance/{NAME}", "http:8080"),
    service("finance/web", 8080),
    *server("legacy/cron"),
    service(f"finance/{NAME}", 8080, (99, 99)),
    policy(f"finance/{NAME}-strict", "STRICT", selector={"app": NAME}, ports={99: "PERMISSIVE"}),
]
CHANGED = [policy("finance/default", "STRICT")]
COMMANDS = {
    "status": ["status"],
    "why": ["why"],
    "events": ["events"],
    "audit": ["audit"],
    "explain": ["explain", f"finance/{NAME}"],
    "explain files": ["explain", "-f", "{mesh}", f"finance/{NAME}"],
    "plan": ["plan", "-f", "{mesh}", "--with", "{changed}", "--observed"],
    "validate": ["validate", "-f", "{mesh}", "-f", "{wrong}"],
    "check": ["check", "--machine"],
}
WRONG = [policy("finance/mistaken", "STRIKT", selector={"app": NAME})]


@pytest.fixture(scope="module")
def manifests() -> dict[str, str]:
    return {"mesh.yaml": document(OBJECTS)}


@pytest.fixture(scope="module")
def used(mesh: Mesh) -> Mesh:
    """The mesh, with connections of every outcome to tell of."""
    with clients(mesh, "finance/web", "legacy/cron") as (web, cron):
        assert web.get(NAME, 8080).body
        assert web.get(NAME, 99).cut
        assert cron.get(f"{NAME}.finance", 8080).cut
        assert cron.get("web.finance", 8080, seconds=1.0).body
    for outcome in ("accepted", "failed", "refused"):
        mesh.event(outcome=outcome)
    return mesh


def on_a_terminal(mesh: Mesh, *command: str) -> str:
    """Run a command on a terminal and return what is on it, without colours."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTHS[0], 0, 0))
    surroundings = {k: v for k, v in mesh.environment.items() if k not in {"COLUMNS", "NO_COLOR"}}
    process = mesh.host.start(
        *command,
        env=surroundings | {"TERM": "xterm-256color"},
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # what Linux says when the last process has left the terminal
        pass
    finally:
        os.close(ours)
        process.wait()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r\n", "\n")


def at_widths(mesh: Mesh, command: Sequence[str], *widths: int) -> list[str]:
    """What a command of troth prints on a terminal of each of these widths."""
    program = (sys.executable, str(PROGRAMS / "at_widths.py"), ",".join(map(str, widths)))
    *shown, rest = on_a_terminal(mesh, *program, *command).split("\f")
    assert not rest
    assert len(shown) == len(widths)
    return shown


@pytest.mark.parametrize("name", COMMANDS)
def test_a_report_loses_nothing_on_a_narrow_terminal(used: Mesh, name: str) -> None:
    files = {"mesh": OBJECTS, "changed": CHANGED, "wrong": WRONG}
    for file, objects in files.items():
        (used.home / f"{file}.yaml").write_text(document(objects))
    places = {file: str(used.home / f"{file}.yaml") for file in files}
    command = [word.format(**places) for word in COMMANDS[name]]
    full, *others = at_widths(used, command, FULL, *WIDTHS)
    assert len(full.splitlines()) > 1
    for columns, shown in zip(WIDTHS, others, strict=True):
        assert not lost(full, shown), f"{columns} columns:\n{shown}"


def test_the_command_itself_prints_for_its_terminal(used: Mesh) -> None:
    [expected] = at_widths(used, ["events"], WIDTHS[0])
    assert on_a_terminal(used, TROTH, "events") == expected


def test_a_trace_stays_within_the_terminal(used: Mesh) -> None:
    # Each trace makes a connection of its own, so what it says is compared where it is drawn.
    command = ["trace", "finance/web", f"finance/{NAME}:8080"]
    for columns, shown in zip(WIDTHS, at_widths(used, command, *WIDTHS), strict=True):
        assert max(map(len, shown.splitlines())) <= columns
        assert "accepted by the tunnel" in shown
