"""From what was found to the verdict, the place, the cause and the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.connect.samples import (
    FOREIGN_CLIENT,
    FOREIGN_SERVER,
    GONE,
    RUNNING,
    event,
    found,
    handshake,
    listening,
)
from tests.samples import STRICT, WEB

from troth.connect.findings import Reached
from troth.connect.judge import judge
from troth.connect.report import Credentials, Hop
from troth.handshake.record import Verdict
from troth.policy.model import Mode
from troth.traffic.connection import Cause, Connection, Outcome, Reason, Side

if TYPE_CHECKING:
    from troth.connect.report import Findings

IMPOSTOR = {"credentials": Credentials.EXPIRED}
EXPIRED = handshake(
    Verdict.REFUSED,
    "the server refused the client's certificate: certificate_expired (45)",
    credentials=Credentials.EXPIRED,
)
EXPLAINED = Cause(cause="A proxy says why.", remedy="Do this.")
DIRECT: dict[str, Any] = {
    "client": {"tunnel": False, "expected": None, "destination": "legacy/cron"},
    "server": FOREIGN_SERVER,
}
OWN_ADDRESS: dict[str, Any] = {
    "client": {"destination": "finance/web-0"},
    "route": {"service": None},
}


def refused(
    reason: Reason, side: Side = Side.SERVER, outcome: Outcome = Outcome.REFUSED
) -> Connection:
    return event(outcome, reason, side=side)


@pytest.mark.parametrize(
    ("findings", "verdict", "stopped_at"),
    [
        pytest.param(found(reported=event(Outcome.ACCEPTED)), "accepted", None, id="tunnel"),
        pytest.param(found(reported=event(Outcome.PLAINTEXT)), "plaintext", None, id="plaintext"),
        pytest.param(
            found(reported=refused(Reason.PLAINTEXT_TO_STRICT), reached=Reached.RESET),
            "refused",
            Hop.SERVER_PROXY,
            id="STRICT",
        ),
        pytest.param(
            found(reported=refused(Reason.WRONG_SERVER_IDENTITY, Side.CLIENT)),
            "refused",
            Hop.TUNNEL,
            id="wrong identity",
        ),
        pytest.param(
            found(reported=refused(Reason.APP_UNREACHABLE, outcome=Outcome.FAILED)),
            "failed",
            Hop.APP,
            id="app not listening",
        ),
        pytest.param(
            found(reported=refused(Reason.NOT_CONFIGURED, Side.CLIENT, Outcome.FAILED)),
            "failed",
            Hop.CLIENT_PROXY,
            id="the client's proxy knows no way",
        ),
        pytest.param(
            found(reported=refused(Reason.UNREACHABLE, Side.CLIENT, Outcome.FAILED)),
            "failed",
            Hop.TUNNEL,
            id="no tunnel port",
        ),
        pytest.param(
            found(reported=refused(Reason.UNREACHABLE, Side.CLIENT, Outcome.FAILED), **DIRECT),
            "failed",
            Hop.APP,
            id="a foreign pod's port",
        ),
        pytest.param(
            found(
                reported=refused(Reason.UNREACHABLE, Side.CLIENT, Outcome.FAILED),
                client={"tunnel": False, "destination": None},
                server=FOREIGN_SERVER,
            ),
            "failed",
            Hop.NETWORK,
            id="an address without a pod",
        ),
        pytest.param(
            found(endpoints=False, reached=Reached.RESET),
            "failed",
            Hop.CLIENT_PROXY,
            id="no endpoints",
        ),
        pytest.param(
            found(endpoints=False, reached=Reached.UNREACHABLE, route=FOREIGN_CLIENT),
            "failed",
            Hop.NETWORK,
            id="no endpoints, and no proxy",
        ),
        pytest.param(
            found(reached=Reached.UNREACHABLE, envoy=GONE),
            "failed",
            Hop.CLIENT_PROXY,
            id="the client's Envoy is gone",
        ),
        pytest.param(
            found(reached=Reached.UNREACHABLE, envoy=GONE, route=FOREIGN_CLIENT),
            "failed",
            Hop.SERVER_PROXY,
            id="the server's Envoy is gone",
        ),
        pytest.param(
            found(
                reached=Reached.UNREACHABLE,
                route=FOREIGN_CLIENT,
                listening=listening("0.0.0.0:9090", "127.0.0.1:8080"),
            ),
            "failed",
            Hop.APP,
            id="the server's pod refuses, as no app listens",
        ),
        pytest.param(
            found(
                reached=Reached.UNREACHABLE,
                envoy=GONE,
                route=FOREIGN_CLIENT,
                listening=listening("0.0.0.0:8080"),
            ),
            "failed",
            Hop.SERVER_PROXY,
            id="the app listens, and the server's Envoy is gone",
        ),
        pytest.param(
            found(reached=Reached.UNREACHABLE, envoy=GONE, **DIRECT),
            "failed",
            Hop.CLIENT_PROXY,
            id="the client's Envoy is gone, to a foreign pod",
        ),
        pytest.param(
            found(reached=Reached.UNREACHABLE, route=FOREIGN_CLIENT, **DIRECT),
            "failed",
            Hop.APP,
            id="nobody listens, outside the mesh",
        ),
        pytest.param(
            found(reached=Reached.ANSWERED), "failed", Hop.CLIENT_PROXY, id="answered, unreported"
        ),
        pytest.param(found(**DIRECT), "plaintext", None, id="to a foreign pod"),
        pytest.param(found(**OWN_ADDRESS), "plaintext", None, id="to itself"),
        pytest.param(
            found(reached=Reached.UNREACHABLE, **OWN_ADDRESS), "failed", Hop.APP, id="to nothing"
        ),
        pytest.param(
            found(reported=event(Outcome.ACCEPTED), question=IMPOSTOR, trace=EXPIRED),
            "refused",
            Hop.TUNNEL,
            id="an impostor, though the connection was accepted",
        ),
        pytest.param(
            found(reported=event(Outcome.ACCEPTED), question=IMPOSTOR),
            "failed",
            Hop.TUNNEL,
            id="an impostor without a handshake",
        ),
        pytest.param(
            found(
                question=IMPOSTOR,
                trace=handshake(Verdict.UNDECIDED, "no answer", credentials=Credentials.EXPIRED),
            ),
            "failed",
            Hop.TUNNEL,
            id="an impostor without an answer",
        ),
        pytest.param(
            found(
                question=IMPOSTOR,
                trace=handshake(Verdict.ACCEPTED, "it was let in", credentials=Credentials.EXPIRED),
            ),
            "accepted",
            None,
            id="an impostor that was let in",
        ),
    ],
)
def test_the_verdict_says_what_became_of_it_and_where_it_stopped(
    findings: Findings, verdict: str, stopped_at: Hop | None
) -> None:
    judgement = judge(findings)
    assert (judgement.verdict, judgement.stopped_at) == (verdict, stopped_at)
    assert judgement.cause.endswith(".")
    assert judgement.remedy is not None or judgement.stopped_at is None


@pytest.mark.parametrize(
    ("findings", "cause", "remedy"),
    [
        pytest.param(
            found(reported=refused(Reason.PLAINTEXT_TO_STRICT), explained=EXPLAINED),
            "A proxy says why.",
            "Do this.",
            id="the words of troth why",
        ),
        pytest.param(
            found(
                reported=refused(Reason.HANDSHAKE_FAILED),
                explained=EXPLAINED,
                trace=handshake(Verdict.REFUSED, "the client refused the server"),
            ),
            "A proxy says why. The traced handshake: the client refused the server.",
            "Look at the step at which the handshake stopped",
            id="what the handshake adds where a proxy is vague",
        ),
        pytest.param(
            found(
                reported=event(Outcome.FAILED, Reason.APP_UNREACHABLE, peer=WEB),
                listening=listening("0.0.0.0:9090", "127.0.0.1:7000"),
            ),
            f"The tunnel stands, the server knows the client as {WEB}. "
            "Nothing listens on port 8080 of finance/payments-0, "
            "where processes listen on 7000 and 9090.",
            "or correct the targetPort of Service finance/payments.",
            id="the ports that are there",
        ),
        pytest.param(
            found(
                reported=refused(Reason.APP_UNREACHABLE, outcome=Outcome.FAILED),
                listening=listening(),
                route={"service": None},
            ),
            "Nothing listens on port 8080 of finance/payments-0, and on no other.",
            "Start what should listen there (`troth logs finance/payments-0` shows what it says).",
            id="no port at all",
        ),
        pytest.param(
            found(
                reported=refused(Reason.APP_UNREACHABLE, outcome=Outcome.FAILED),
                listening=listening("127.0.0.1:8080", "::1:8080"),
            ),
            "listens on port 8080 at 127.0.0.1 and ::1 only",
            "Let it listen at 0.0.0.0 or ::",
            id="loopback only",
        ),
        pytest.param(
            found(
                reported=refused(Reason.APP_UNREACHABLE, outcome=Outcome.FAILED),
                listening=listening("0.0.0.0:8080"),
            ),
            "listens on port 8080 at 0.0.0.0 at this moment",
            "if it has only just started, trace again",
            id="it has just started",
        ),
        pytest.param(
            found(
                endpoints=False,
                route={"unready": ("finance/payments-0: container payments: exit code 1",)},
            ),
            "It selects finance/payments-0: container payments: exit code 1.",
            "Correct that for one of them",
            id="pods that are not ready",
        ),
        pytest.param(
            found(endpoints=False),
            "its selector matches none",
            "Compare its selector",
            id="no pods",
        ),
        pytest.param(
            found(reached=Reached.UNREACHABLE, envoy=GONE),
            "port 15001 of finance/web-0, where capture leads it: Envoy is not running",
            "starts Envoy again by itself",
            id="Envoy is gone",
        ),
        pytest.param(
            found(reached=Reached.UNREACHABLE, envoy=RUNNING, route=FOREIGN_CLIENT),
            "port 15006 of finance/payments-0, where capture leads it: Envoy does not listen there",
            "starts Envoy again by itself",
            id="Envoy has come back",
        ),
        pytest.param(
            found(reached=Reached.SILENT, detail="nothing came for 5 s"),
            "(nothing came for 5 s), so nothing is known of how it travelled: "
            "Envoy may be overloaded or stopped.",
            "Trace again",
            id="a proxy that hangs",
        ),
        pytest.param(
            found(reported=event(Outcome.PLAINTEXT), server={"mode": Mode.DISABLE}),
            "port 8080 is DISABLE by the default, so nobody makes a tunnel",
            "set PERMISSIVE or STRICT",
            id="DISABLE",
        ),
        pytest.param(
            found(reported=event(Outcome.PLAINTEXT), question={"past_tunnel": True}),
            "port 8080 takes it, being PERMISSIVE by the default",
            "set STRICT",
            id="past the tunnel",
        ),
        pytest.param(
            found(reported=event(Outcome.PLAINTEXT), route=FOREIGN_CLIENT),
            "legacy/cron is not in the mesh (namespace legacy is not labelled",
            "put legacy/cron in the mesh: namespace legacy labelled troth.dev/mesh: enabled",
            id="a client outside",
        ),
        pytest.param(
            found(
                reported=event(Outcome.PLAINTEXT),
                route=FOREIGN_CLIENT | {"in_mesh": True, "why": "not captured yet"},
            ),
            "legacy/cron is in the mesh, but not captured (not captured yet)",
            "put legacy/cron in the mesh",
            id="a client that is not captured",
        ),
        pytest.param(
            found(
                client={"port": 15007},
                reported=refused(Reason.BAD_SERVER_NAME),
                explained=EXPLAINED,
            ),
            "No app listens on port 15007",
            "Connect to the app's port",
            id="a port of troth's own",
        ),
        pytest.param(
            found(
                question=IMPOSTOR,
                trace=handshake(
                    Verdict.REFUSED,
                    "refused",
                    credentials=Credentials.EXPIRED,
                    reported=event(Outcome.REFUSED, Reason.CERTIFICATE_EXPIRED),
                ),
                explained=EXPLAINED,
            ),
            "A proxy says why.",
            "None here: the trace showed it on purpose. For a real client: Do this.",
            id="an impostor",
        ),
    ],
)
def test_cause_and_remedy_name_what_mends_it(findings: Findings, cause: str, remedy: str) -> None:
    judgement = judge(findings)
    assert cause in judgement.cause
    assert judgement.remedy is not None
    assert remedy in judgement.remedy


@pytest.mark.parametrize(
    ("reached", "words"),
    [
        pytest.param(Reached.ANSWERED, "", id="answered"),
        pytest.param(Reached.SILENT, " The app has it and says nothing to a GET", id="silent"),
        pytest.param(Reached.CLOSED, " The app ended it without an answer to a GET", id="closed"),
    ],
)
@pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.PLAINTEXT])
def test_what_an_app_says_does_not_change_whether_it_was_let_in(
    outcome: Outcome, reached: Reached, words: str
) -> None:
    judgement = judge(found(reported=event(outcome, peer=WEB), reached=reached))
    assert judgement.verdict is outcome
    assert words in judgement.cause
    assert ("The app" in judgement.cause) is bool(words)


def test_a_policy_is_told_from_a_policy() -> None:
    findings = found(
        reported=event(Outcome.PLAINTEXT),
        server={"decided_by": STRICT},
        question={"past_tunnel": True},
    )
    assert "PERMISSIVE by finance/strict (namespace)" in judge(findings).cause
