"""What stands in a PeerAuthentication's status."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.controller.conftest import NOW

from troth.cluster.contract import SILENCE, NodeReport, PodTrouble, policy_digest
from troth.controller.conditions import (
    PolicyCondition,
    PolicyHistory,
    StoredPolicy,
    Truth,
    conditions,
    merged,
    was_enforced,
)
from troth.errors import Problem, Severity

POLICY = StoredPolicy(uid="u1", generation=3)
OTHER = StoredPolicy(uid="u2", generation=1)


def problem(severity: Severity = Severity.ERROR) -> Problem:
    return Problem(
        subject="PeerAuthentication shop/default",
        path="spec.mtls.mode",
        found='is "MAYBE"',
        wanted="write STRICT",
        severity=severity,
    )


def history(*policies: StoredPolicy) -> PolicyHistory:
    result = PolicyHistory()
    result.note(policies)
    return result


def report(
    *policies: StoredPolicy, trouble: str = "", joining: frozenset[str] = frozenset()
) -> NodeReport:
    digest = policy_digest((each.uid, each.generation) for each in policies)
    return NodeReport(policies=digest, trouble=trouble, joining=joining)


def test_a_valid_policy_is_accepted() -> None:
    accepted, _ = conditions(POLICY, {}, history(POLICY))
    assert accepted == PolicyCondition(
        type="Accepted", status=Truth.TRUE, reason="Valid", message="", observed_generation=3
    )


def test_a_policy_is_refused_with_what_is_wrong_and_what_would_be_right() -> None:
    policy = StoredPolicy(uid="u1", generation=3, problems=(problem(),))
    reports: dict[str, NodeReport | None] = {"node-1": report(policy)}
    accepted, enforced = conditions(policy, reports, history(policy))
    assert (accepted.status, accepted.reason) == ("False", "Invalid")
    assert 'spec.mtls.mode: is "MAYBE" (write STRICT)' in accepted.message
    assert (enforced.status, enforced.reason) == ("False", "NotAccepted")


def test_a_warning_does_not_refuse_a_policy() -> None:
    policy = StoredPolicy(uid="u1", generation=3, problems=(problem(Severity.WARNING),))
    accepted, enforced = conditions(policy, {"node-1": report(policy)}, history(policy))
    assert (accepted.status, accepted.reason) == ("True", "ValidWithWarnings")
    assert "MAYBE" in accepted.message
    assert enforced.status == "True"


@pytest.mark.parametrize("is_strict", [True, False])
def test_where_pods_start_before_they_are_captured_strict_is_not_all_that_it_says(
    is_strict: bool,  # noqa: FBT001 - from the list
) -> None:
    policy = msgspec.structs.replace(POLICY, is_strict=is_strict)
    reports: dict[str, NodeReport | None] = {
        name: msgspec.structs.replace(report(policy), plugin=plugin)
        for name, plugin in (("a", True), ("b", None), ("c", False), ("d", False))
    }
    _, enforced = conditions(policy, reports, history(policy))
    assert (enforced.status, enforced.reason) == ("True", "AllNodes")
    gap = (
        "; on 2 without the CNI plugin (c, d), pods may take plaintext between their start and "
        "their capture"
    )
    assert enforced.message == "4 of 4 nodes" + (gap if is_strict else "")


def test_a_policy_is_enforced_when_every_node_says_so() -> None:
    reports = {f"node-{i}": report(POLICY, OTHER) for i in range(37)}
    _, enforced = conditions(POLICY, reports, history(POLICY, OTHER))
    assert (enforced.status, enforced.reason) == ("True", "AllNodes")
    assert enforced.message == "37 of 37 nodes"


def test_nodes_that_are_behind_are_named_with_their_trouble() -> None:
    older = StoredPolicy(uid="u1", generation=2)
    seen = history(older)
    seen.note([POLICY])
    reports: dict[str, NodeReport | None] = {
        "node-1": report(POLICY),
        "node-2": report(older, trouble="Envoy refused its configuration"),
        "node-3": None,
        "node-4": report(StoredPolicy(uid="?", generation=9)),
        "node-5": report(older),
    }
    _, enforced = conditions(POLICY, reports, seen)
    assert (enforced.status, enforced.reason) == ("False", "NotAllNodes")
    assert enforced.message == (
        "1 of 5 nodes; waiting for node-2 (Envoy refused its configuration), "
        "node-3 (its report cannot be read), node-4 and 1 more"
    )


def test_a_node_whose_agent_is_silent_is_behind_whatever_it_said_last() -> None:
    reports = {f"node-{i}": report(POLICY) for i in (1, 2)}
    _, enforced = conditions(POLICY, reports, history(POLICY), {"node-2"})
    assert (enforced.status, enforced.reason) == ("False", "NotAllNodes")
    assert enforced.message == f"1 of 2 nodes; waiting for node-2 ({SILENCE})"


def test_a_node_behind_in_another_policy_enforces_this_one() -> None:
    older = StoredPolicy(uid="u2", generation=0)
    seen = history(POLICY, older)
    seen.note([POLICY, OTHER])
    reports = {"node-1": report(POLICY, older)}
    assert conditions(POLICY, reports, seen)[1].status == "True"
    assert conditions(OTHER, reports, seen)[1].status == "False"


@pytest.mark.parametrize(
    ("namespace", "waits"),
    [
        pytest.param("shop", True, id="of their namespace"),
        pytest.param("", True, id="of all namespaces"),
        pytest.param("other", False, id="of another namespace"),
    ],
)
def test_a_policy_waits_for_pods_that_have_just_joined(*, namespace: str, waits: bool) -> None:
    policy = msgspec.structs.replace(POLICY, namespace=namespace)
    reports = {"node-1": report(policy, joining=frozenset({"shop"})), "node-2": report(policy)}
    _, enforced = conditions(policy, reports, history(policy))
    if waits:
        words = "1 of 2 nodes; waiting for node-1 (pods of shop have just joined the mesh)"
        assert (enforced.status, enforced.message) == ("False", words)
    else:
        assert enforced.status == "True"


def test_pods_that_join_later_do_not_lift_a_policy_that_was_in_force() -> None:
    reports = {"node-1": report(POLICY, joining=frozenset({"shop"}))}
    before = merged((), conditions(POLICY, {"node-1": report(POLICY)}, history(POLICY)), now=NOW)
    assert before is not None
    assert was_enforced(before, POLICY.generation)
    assert not was_enforced(before, POLICY.generation + 1)
    policy = msgspec.structs.replace(POLICY, was_enforced=True)
    assert conditions(policy, reports, history(policy))[1].status == "True"


def with_troubles(**troubles: dict[str, PodTrouble]) -> dict[str, NodeReport | None]:
    return {"node-1": msgspec.structs.replace(report(POLICY), **troubles)}


def test_a_pod_that_is_not_captured_makes_its_policies_unenforced_though_they_were() -> None:
    trouble = PodTrouble(why="Envoy refused its configuration", policies=frozenset({"shop/strict"}))
    reports = with_troubles(uncaptured={"shop/web": trouble})
    policy = msgspec.structs.replace(POLICY, key="shop/strict", was_enforced=True)
    _, enforced = conditions(policy, reports, history(policy))
    assert (enforced.status, enforced.reason) == ("False", "NotAllNodes")
    assert enforced.message == (
        "0 of 1 nodes; waiting for node-1 (not captured: pod shop/web (Envoy refused its "
        "configuration))"
    )
    other = msgspec.structs.replace(POLICY, key="shop/other")
    assert conditions(other, reports, history(POLICY))[1].status == "True"


def test_a_pod_that_is_held_to_a_policy_without_its_clients_knowing_is_named() -> None:
    trouble = PodTrouble(why="a webhook refused", policies=frozenset({"shop/strict"}))
    policy = msgspec.structs.replace(POLICY, key="shop/strict")
    reports = with_troubles(unmarked={"shop/web": trouble})
    _, enforced = conditions(policy, reports, history(policy))
    assert (enforced.status, enforced.message) == (
        "True",
        "1 of 1 nodes; clients can't be told of the capture of pod shop/web (a webhook refused)",
    )


def test_without_nodes_nothing_is_enforced() -> None:
    _, enforced = conditions(POLICY, {}, history(POLICY))
    assert (enforced.status, enforced.reason) == ("False", "NoNodes")
    assert enforced.message == "0 of 0 nodes"


def test_sets_of_long_ago_are_forgotten() -> None:
    seen = history(POLICY)
    for generation in range(1000):
        seen.note([StoredPolicy(uid="u2", generation=generation)])
    assert seen.generation(report(POLICY).policies, "u1") is None
    assert len(seen._sets) <= 256


def test_a_digest_does_not_depend_on_the_order_and_depends_on_the_generation() -> None:
    assert policy_digest([("a", 1), ("b", 2)]) == policy_digest([("b", 2), ("a", 1)])
    assert policy_digest([("a", 1)]) != policy_digest([("a", 2)])
    assert policy_digest([("a", 11)]) != policy_digest([("a1", 1)])


ACCEPTED = PolicyCondition(
    type="Accepted", status=Truth.TRUE, reason="Valid", message="", observed_generation=1
)


def test_conditions_of_others_are_kept() -> None:
    others: dict[str, Any] = {"type": "ZtunnelAccepted", "status": "True", "own": 1}
    result = merged([others], [ACCEPTED], now=NOW)
    assert result is not None
    assert result[0] == others
    assert result[1] == {
        "type": "Accepted",
        "status": "True",
        "reason": "Valid",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-03-01T12:00:00Z",
    }


def test_nothing_is_written_when_nothing_is_new() -> None:
    first = merged([], [ACCEPTED], now=NOW)
    assert first is not None
    assert merged(first, [ACCEPTED], now=NOW + timedelta(hours=1)) is None


def test_a_new_message_leaves_the_time_of_the_transition() -> None:
    first = merged([], [ACCEPTED], now=NOW)
    assert first is not None
    later = NOW + timedelta(hours=1)
    louder = PolicyCondition(
        type="Accepted", status=Truth.TRUE, reason="Valid", message="!", observed_generation=2
    )
    second = merged(first, [louder], now=later)
    assert second is not None
    assert second[0]["lastTransitionTime"] == "2026-03-01T12:00:00Z"
    refused = PolicyCondition(
        type="Accepted", status=Truth.FALSE, reason="Invalid", message="!", observed_generation=2
    )
    third = merged(second, [refused], now=later)
    assert third is not None
    assert third[0]["lastTransitionTime"] == "2026-03-01T13:00:00Z"


def test_messages_are_bounded() -> None:
    policy = StoredPolicy(uid="u1", generation=3, problems=(problem(),) * 100)
    accepted, _ = conditions(policy, {}, history(policy))
    assert len(accepted.message) == 1024
