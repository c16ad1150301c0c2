"""`troth demo`, the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import PATIENCE_SECONDS, TROTH, Host, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", params=[False, True], ids=["root", "plain user"])
def demo(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Sequence[str]]:
    """What it reports, and what it leaves in its temporary directory."""
    with Host() as host, tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "TMPDIR": directory}
        result = host.run(TROTH, "demo", "-o", "json", plain=request.param, env=environment)
        return json.loads(result.stdout), _names(directory)


@pytest.fixture
def temporary() -> Iterator[str]:
    """A directory with a short path, because Unix sockets' paths are at most 107 bytes long."""
    with tempfile.TemporaryDirectory() as directory:
        yield directory


def _names(directory: str) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


Demo = tuple[dict[str, Any], "Sequence[str]"]


def test_everything_comes_out_as_it_should(demo: Demo) -> None:
    report, _ = demo
    assert report["schema"] == "troth/demo/v1"
    assert report["ok"]
    assert [step["title"] for step in report["steps"] if not step["ok"]] == []


def test_each_step_shows_the_connections_of_its_policy(demo: Demo) -> None:
    report, _ = demo
    seen = [
        [
            f"{tried['source']} {tried['port']} {tried['happened']} "
            f"{tried['event']['mode']} {tried['event']['decided_by']['policy']}"
            for tried in step["tries"]
            if tried["credentials"] is None
        ]
        for step in report["steps"]
    ]
    assert seen == [
        ["finance/web 8080 tunnel PERMISSIVE None", "legacy/cron 8080 plaintext PERMISSIVE None"],
        [
            "finance/web 8080 tunnel STRICT finance/strict",
            "legacy/cron 8080 refused STRICT finance/strict",
        ],
        [
            "finance/web 8080 tunnel STRICT finance/payments-strict",
            "legacy/cron 8080 refused STRICT finance/payments-strict",
            "legacy/cron 8080 plaintext PERMISSIVE None",
        ],
        [
            "legacy/cron 9090 plaintext PERMISSIVE finance/payments-metrics",
            "legacy/cron 8080 refused STRICT finance/payments-metrics",
            "finance/web 9090 tunnel PERMISSIVE finance/payments-metrics",
        ],
        [
            "finance/web 8080 plaintext DISABLE finance/payments-disable",
            "legacy/cron 8080 plaintext DISABLE finance/payments-disable",
        ],
        ["finance/web 8080 tunnel PERMISSIVE None", "legacy/cron 8080 plaintext PERMISSIVE None"],
        [],
    ]


def test_every_impostor_is_refused_for_its_own_reason(demo: Demo) -> None:
    report, _ = demo
    assert [
        (tried["credentials"], tried["happened"], tried["event"]["reason"], tried["event"]["peer"])
        for tried in report["steps"][-1]["tries"]
    ] == [
        ("foreign-ca", "refused", "unknown_authority", None),
        ("expired", "refused", "certificate_expired", None),
        ("none", "refused", "no_client_certificate", None),
    ]


def test_the_handshake_shows_the_servers_certificate_before_the_clients(demo: Demo) -> None:
    report, _ = demo
    handshake = report["handshake"]
    assert handshake["verdict"] == "accepted"
    shown = [step["actor"] for step in handshake["steps"] if step["action"].startswith("Cert")]
    # CertificateRequest, Certificate and CertificateVerify; then the client's two.
    assert shown == ["server", "server", "server", "client", "client"]
    assert handshake["handshake"]["server_chain"][0]["spiffe_id"].endswith("/sa/payments")
    assert handshake["handshake"]["client_chain"][0]["spiffe_id"].endswith("/sa/web")


def test_it_leaves_nothing_behind(demo: Demo) -> None:
    _, left = demo
    assert left == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_it_cleans_up_when_it_is_interrupted(
    host: Host, tmp_path: Path, temporary: str, number: signal.Signals
) -> None:
    # Tests that run in the background have it ignored, and so would what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output, pid = tmp_path / "output", tmp_path / "pid"
    process = host.start(
        *("sh", "-c", f'echo $$ >{pid}; exec "$0" demo >{output}', TROTH),
        env={**os.environ, "TMPDIR": temporary},
    )
    eventually(lambda: output.exists() and "1  No policy" in output.read_text(), what="step 1")
    assert len(_names(temporary)) == 1
    assert "troth.local" in _commands(host)
    host.run("kill", f"-{number.name.removeprefix('SIG')}", pid.read_text().strip())
    assert process.wait(PATIENCE_SECONDS) == 130
    assert _names(temporary) == []
    assert "troth.local" not in _commands(host)


def test_step_by_step_it_waits_for_enter_and_then_says_what_to_try_next(
    host: Host, tmp_path: Path, temporary: str
) -> None:
    output = tmp_path / "output"
    environment = {**os.environ, "TMPDIR": temporary, "PATH": f"{Path(TROTH).parent}:/usr/bin:/bin"}
    with output.open("w") as file:
        process = host.start(
            *(TROTH, "demo", "--step"), stdin=subprocess.PIPE, stdout=file, env=environment
        )
    assert process.stdin is not None
    for number in range(1, 8):
        heading = f"\n{number}  "
        eventually(lambda: heading in output.read_text(), what=f"step {number}")  # noqa: B023
        assert f"\n{number + 1}  " not in output.read_text()
        process.stdin.write(b"\n")
        process.stdin.flush()
    process.stdin.close()
    assert process.wait(PATIENCE_SECONDS) == 0
    _, _, following = output.read_text().partition("Next: the same mesh, yours to change\n")
    commands = [line.strip() for line in following.splitlines()]
    environment["TROTH_STATE_DIR"] = str(Path(temporary) / "state")
    said = [host.run("sh", "-c", each, check=False, env=environment) for each in commands]
    up, refused, why, down = said
    assert (up.returncode, why.returncode, down.returncode) == (0, 0, 0)
    assert refused.returncode in {52, 56}  # curl's: an empty reply, or a reset
    assert "finance/payments-strict sets STRICT" in " ".join(why.stdout.split())


def _commands(host: Host) -> str:
    return host.run("sh", "-c", "cat /proc/[0-9]*/cmdline", check=False).stdout
