from __future__ import annotations

import pytest

from troth.envoy.delta import refusals

NAMES = frozenset({"good", "bad-a", "bad-b: x", "svc|10.96.0.10:80", "bad1", "bad2"})


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        pytest.param(
            "Error adding/updating listener(s) bad-a: Didn't find a registered implementation for"
            " 'tcp' with type URL: 'x.TcpProxz'\nbad-b: x: error adding listener"
            " '127.0.0.1:19102': no filter chains specified\n",
            {
                "bad-a": "Didn't find a registered implementation for 'tcp' with type URL:"
                " 'x.TcpProxz'",
                "bad-b: x": "error adding listener '127.0.0.1:19102': no filter chains specified",
            },
            id="two listeners",
        ),
        pytest.param(
            "Error adding/updating cluster(s) bad1: cannot create an EDS cluster without an EDS"
            " config, bad2: cluster manager: cluster provided LB specified, but not provided",
            {
                "bad1": "cannot create an EDS cluster without an EDS config",
                "bad2": "cluster manager: cluster provided LB specified, but not provided",
            },
            id="two clusters, one with a comma in its reason",
        ),
        pytest.param(
            "Error adding/updating listener(s) bad-a: Proto constraint validation failed:\n"
            "field: 1\n",
            {"bad-a": "Proto constraint validation failed:\nfield: 1"},
            id="a reason of two lines",
        ),
        pytest.param(
            "Error adding/updating cluster(s) svc|10.96.0.10:80: no",
            {"svc|10.96.0.10:80": "no"},
            id="a name with a colon",
        ),
    ],
)
def test_envoys_list_is_read(message: str, refused: dict[str, str]) -> None:
    assert refusals(message, NAMES) == refused


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("Failed to load certificate chain from <inline>", id="a secret"),
        pytest.param("Unable to unpack as envoy.config.listener.v3.Listener", id="undecodable"),
        pytest.param("Error adding/updating listener(s) unknown: no\n", id="an unknown name"),
        pytest.param("Error adding/updating listener(s) ", id="an empty list"),
        pytest.param("", id="no words"),
    ],
)
def test_all_are_refused_when_envoy_does_not_say_which(message: str) -> None:
    assert refusals(message, NAMES) == dict.fromkeys(NAMES, message)


def test_what_a_truncated_message_leaves_out_may_be_refused_too() -> None:
    found = refusals("Error adding/updating listener(s) bad-a: no\nba...(truncated)", NAMES)
    assert found["bad-a"].startswith("no")
    assert found.keys() == NAMES
    assert "may have refused" in found["good"]
