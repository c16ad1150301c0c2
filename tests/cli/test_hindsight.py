"""What people see of why and audit, as whole texts beside this file, and the policies written."""

from __future__ import annotations

import io
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from rich.console import Console
from tests.explain.seen import NOON, at, connection, observed, policy, world

from troth.cli.audit import render_audit, write_policies
from troth.cli.why import render_why
from troth.errors import EnvironmentLackError, InputError
from troth.explain.audit import audit
from troth.explain.validate import validate
from troth.explain.why import Conflict, why
from troth.manifests.files import load
from troth.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from troth.explain.audit_report import Audit

GOLDEN = Path(__file__).with_name("golden") / "hindsight"
NOW = world(policy("finance/payments-mtls", Mode.STRICT, port=8080, app="payments"))
REFUSED = connection("legacy/cron > finance/payments:8080 refused plaintext_to_strict", NOW)
STRANGER = connection(
    "192.0.2.7 > finance/payments:9090 refused no_handshake", NOW, detail="[red]evil[/red]"
)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def rendered(value: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=120, highlight=False).print(value)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def some_audit(*lines: str, now_strict: bool = False) -> Audit:
    now = world(policy("finance/default", Mode.STRICT)) if now_strict else world()
    return audit(
        observed(
            (connection(line, now) for line in lines),
            now,
            complete_since=NOON - timedelta(minutes=5),
            not_captured={"finance/web": "no certificate"},
        ),
        since=NOON - timedelta(hours=1),
        now=NOON,
    )


MIXED = some_audit(
    "finance/web > finance/payments:8080 accepted",
    "legacy/cron > finance/payments:9090 plaintext",
    "legacy/cron > finance/payments:9090 plaintext",
    "192.0.2.7 > finance/payments:8080 refused no_handshake",
)

RENDERINGS = {
    "why-refused": lambda: render_why(
        why(
            observed(
                [REFUSED, at(9, REFUSED), at(60, STRANGER)],
                NOW,
                not_captured={"finance/web": "no certificate: the signer is gone"},
                refused_by_envoy=("listener/inbound: bad [port]",),
            )
        )
    ),
    "why-nothing": lambda: render_why(why(observed((), NOW))),
    "why-cluster": lambda: render_why(
        msgspec.structs.replace(
            why(observed([REFUSED], NOW)),
            conflicts=(
                Conflict(
                    code="network-policy-blocks-tunnel",
                    where="NetworkPolicy finance/[web]",
                    what="admits TCP port 8080 (ingress rule 0), but not 15007",
                    why="Connections to its pods would fail.",
                    remedy="Add it.",
                ),
            ),
        )
    ),
    "audit-mixed": lambda: render_audit(MIXED),
    "audit-strict": lambda: render_audit(some_audit(now_strict=True)),
}


@pytest.mark.parametrize("name", RENDERINGS)
def test_a_report_reads_as_its_golden(name: str) -> None:
    assert rendered(RENDERINGS[name]()) == (GOLDEN / f"{name}.txt").read_text("utf-8")


def test_policies_are_written_so_that_they_validate(tmp_path: Path) -> None:
    (path,) = write_policies(MIXED, tmp_path / "new" / "safe")
    assert path.read_text() == (GOLDEN / "audit-policy.yaml").read_text()
    validation = validate(load([path]), root_namespace="istio-system")
    assert validation.objects == {"PeerAuthentication": 1}
    assert validation.errors == 0


@pytest.mark.parametrize("link", [False, True], ids=["a file", "a dangling link"])
def test_what_is_there_is_not_overwritten(tmp_path: Path, link: bool) -> None:  # noqa: FBT001 - a column
    path = tmp_path / "finance.payments-mtls.yaml"
    if link:
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_policies(MIXED, tmp_path)
    assert not (tmp_path / "elsewhere").exists()
    assert link or path.read_text() == "mine"


def test_of_several_policies_none_is_written_when_one_is_there(tmp_path: Path) -> None:
    several = some_audit(
        "finance/web > finance/payments:8080 accepted",
        "finance/payments > finance/web:8080 accepted",
    )
    assert len(several.policies) == 2
    (tmp_path / "finance.web-mtls.yaml").write_text("mine")
    with pytest.raises(InputError):
        write_policies(several, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["finance.web-mtls.yaml"]


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentLackError, match="cannot write"):
        write_policies(MIXED, tmp_path / "file" / "below")
