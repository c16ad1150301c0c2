"""What the demonstration does and what it expects, as data.

Nothing here is shown as a result: what happened and which policy decided comes from the mesh.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from troth.connect.report import Credentials
from troth.errors import EnvironmentLackError
from troth.traffic.connection import Reason

_HERE = Path(__file__).resolve().parent


def examples() -> Path:
    """The directory ``examples``.

    Raises:
        EnvironmentLackError: It is not where it was installed.
    """
    for candidate in (_HERE / "examples", _HERE.parents[2] / "examples"):
        if (candidate / "finance").is_dir():
            return candidate
    raise EnvironmentLackError("troth's example manifests are missing", "install troth again")


class Happened(StrEnum):
    """What became of a try."""

    TUNNEL = "tunnel"
    """Answered, by mutual TLS."""

    PLAINTEXT = "plaintext"
    """Answered, in plaintext."""

    REFUSED = "refused"

    FAILED = "failed"
    """Anything else."""


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One connection and what should become of it.

    Attributes:
        source: The workload that connects, ``NAMESPACE/NAME``.
        destination: What it connects to, ``NAMESPACE/NAME``.
        port: The port of that.
        credentials: What it shows to the tunnel port itself; None for an ordinary request, which
            the pod's proxy, if it has one, carries as the policies say.
        claim: Whose identity a forged certificate claims, as a workload.
        expected: What should become of it.
        peer: The service account that the server should see, ``NAMESPACE/NAME``; empty for none.
        policy: The policy that should decide, ``NAMESPACE/NAME``; None where none applies.
        reason: Why it should be refused.
        alert: The TLS alert (RFC 8446, section 6) that the server should refuse it with.
    """

    source: str
    destination: str
    port: int
    credentials: Credentials | None = None
    claim: str | None = None
    expected: Happened
    peer: str = ""
    policy: str | None = None
    reason: Reason = Reason.NONE
    alert: str = ""


class ScenarioStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step: a policy (or none) and what is tried under it.

    Attributes:
        says: What it shows, in one sentence.
        policy: The file in ``examples/policies``; empty for no policy at all.
    """

    title: str
    says: str
    policy: str = ""
    tries: tuple[Try, ...]


WEB, PAYMENTS, CRON = "finance/web", "finance/payments", "legacy/cron"


def _by_tunnel(policy: str | None = None, *, port: int = 8080) -> Try:
    return Try(
        source=WEB,
        destination=PAYMENTS,
        port=port,
        expected=Happened.TUNNEL,
        peer=WEB,
        policy=policy,
    )


def _plaintext(
    source: str, destination: str, policy: str | None = None, *, port: int = 8080
) -> Try:
    return Try(
        source=source,
        destination=destination,
        port=port,
        expected=Happened.PLAINTEXT,
        policy=policy,
    )


def _refused(policy: str, *, port: int = 8080) -> Try:
    return Try(
        source=CRON,
        destination=PAYMENTS,
        port=port,
        expected=Happened.REFUSED,
        policy=policy,
        reason=Reason.PLAINTEXT_TO_STRICT,
    )


def _impostor(credentials: Credentials, reason: Reason, alert: str) -> Try:
    return Try(
        source=CRON,
        destination=PAYMENTS,
        port=8080,
        credentials=credentials,
        claim=None if credentials is Credentials.NONE else WEB,
        expected=Happened.REFUSED,
        reason=reason,
        alert=alert,
    )


STAGES: tuple[ScenarioStep, ...] = (
    ScenarioStep(
        title="No policy",
        says="Every port is PERMISSIVE: pods of the mesh use the tunnel, others may use plaintext.",
        tries=(_by_tunnel(), _plaintext(CRON, PAYMENTS)),
    ),
    ScenarioStep(
        title="STRICT for namespace finance",
        says="Only the tunnel gets in, so only clients with an identity. For web nothing changes.",
        policy="strict-namespace.yaml",
        tries=(_by_tunnel("finance/strict"), _refused("finance/strict")),
    ),
    ScenarioStep(
        title="STRICT for payments alone",
        says="The selector picks payments; web is still open to plaintext.",
        policy="strict-payments.yaml",
        tries=(
            _by_tunnel("finance/payments-strict"),
            _refused("finance/payments-strict"),
            _plaintext(CRON, WEB),
        ),
    ),
    ScenarioStep(
        title="An exception for one port",
        says="STRICT for payments, but its metrics on port 9090 may be read in plaintext.",
        policy="port-exception.yaml",
        tries=(
            _plaintext(CRON, PAYMENTS, "finance/payments-metrics", port=9090),
            _refused("finance/payments-metrics"),
            _by_tunnel("finance/payments-metrics", port=9090),
        ),
    ),
    ScenarioStep(
        title="DISABLE for payments",
        says="No mutual TLS: even web, which has an identity, comes in plaintext.",
        policy="disable-payments.yaml",
        tries=(
            _plaintext(WEB, PAYMENTS, "finance/payments-disable"),
            _plaintext(CRON, PAYMENTS, "finance/payments-disable"),
        ),
    ),
    ScenarioStep(
        title="A policy in the wrong namespace",
        says="It says STRICT for app=payments, but in namespace test: here nothing changes.",
        policy="wrong-namespace.yaml",
        tries=(_by_tunnel(), _plaintext(CRON, PAYMENTS)),
    ),
    ScenarioStep(
        title="Impostors at the tunnel",
        says="Every client of the tunnel's port has to prove an identity, whatever the mode.",
        tries=(
            _impostor(Credentials.FOREIGN_CA, reason=Reason.UNKNOWN_AUTHORITY, alert="unknown_ca"),
            _impostor(
                Credentials.EXPIRED,
                reason=Reason.CERTIFICATE_EXPIRED,
                alert="certificate_expired",
            ),
            _impostor(
                Credentials.NONE,
                reason=Reason.NO_CLIENT_CERTIFICATE,
                alert="certificate_required",
            ),
        ),
    ),
)

HANDSHAKE = Try(
    source=WEB,
    destination=PAYMENTS,
    port=8080,
    credentials=Credentials.OWN,
    expected=Happened.TUNNEL,
    peer=WEB,
)
"""The connection whose handshake is shown step by step."""
