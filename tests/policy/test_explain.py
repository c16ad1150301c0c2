"""Every policy that was looked at is listed, with its fate and the reason in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from troth.policy.index import PolicyIndex
from troth.policy.model import PeerAuthentication
from troth.policy.scope import Scope
from troth.policy.verdict import PolicyOutcome, PolicyVerdict

Decide: TypeAlias = Callable[..., PolicyVerdict]
Policies: TypeAlias = Callable[[str], list[PeerAuthentication]]


def considered(verdict: PolicyVerdict) -> list[tuple[str, Scope, PolicyOutcome]]:
    return [(each.policy, each.scope, each.verdict) for each in verdict.considered]


def test_policies_are_listed_from_mesh_to_workload_the_oldest_first(decide: Decide) -> None:
    verdict = decide(
        "finance/web {app=web} STRICT @5; finance/api {app=api} STRICT @4; finance/default @3;"
        "finance/late DISABLE @9; istio-system/default DISABLE @7; istio-system/late STRICT @8;"
        "istio-system/web {app=web} @1; shop/default STRICT @1",
        "finance app=web",
    )
    assert considered(verdict) == [
        ("istio-system/default", Scope.MESH, PolicyOutcome.SHADOWED),
        ("istio-system/late", Scope.MESH, PolicyOutcome.SHADOWED),
        ("finance/default", Scope.NAMESPACE, PolicyOutcome.SHADOWED),
        ("finance/late", Scope.NAMESPACE, PolicyOutcome.SHADOWED),
        ("istio-system/web", Scope.WORKLOAD, PolicyOutcome.NO_MATCH),
        ("finance/api", Scope.WORKLOAD, PolicyOutcome.NO_MATCH),
        ("finance/web", Scope.WORKLOAD, PolicyOutcome.DECIDES),
    ]


def test_a_policy_of_the_root_namespace_is_listed_once_for_a_workload_there(
    decide: Decide,
) -> None:
    verdict = decide("istio-system/default STRICT", "istio-system app=istiod")
    assert considered(verdict) == [("istio-system/default", Scope.MESH, PolicyOutcome.DECIDES)]


# (what it shows, policies; the last is the one in question), then its fate for finance app=web
FATES = [
    (
        "the only policy",
        "finance/default STRICT",
        PolicyOutcome.DECIDES,
        "it sets STRICT, and nothing narrower sets a mode",
    ),
    (
        "mode and ports",
        "finance/web {app=web} STRICT 1=DISABLE 3=PERMISSIVE 2=DISABLE 4=UNSET",
        PolicyOutcome.DECIDES,
        (
            "it sets STRICT, and nothing narrower sets a mode; its portLevelMtls sets the mode of "
            "ports 1, 2 and 3"
        ),
    ),
    (
        "ports only",
        "finance/default STRICT; finance/web {app=web} 8080=DISABLE",
        PolicyOutcome.DECIDES,
        (
            "its portLevelMtls sets the mode of port 8080; it leaves all else UNSET, so the "
            "workload's mode is STRICT from finance/default (namespace)"
        ),
    ),
    (
        "UNSET with something wider",
        "istio-system/default STRICT; finance/web {app=web} 8080=UNSET",
        PolicyOutcome.INHERITS,
        "its mode is UNSET, so the workload's mode is STRICT from istio-system/default (mesh)",
    ),
    (
        "UNSET with nothing wider",
        "finance/default",
        PolicyOutcome.INHERITS,
        "its mode is UNSET, so the workload's mode is PERMISSIVE from the default",
    ),
    (
        "a narrower scope",
        "finance/web {app=web} DISABLE; finance/default STRICT",
        PolicyOutcome.SHADOWED,
        "finance/web (workload) is narrower and sets DISABLE",
    ),
    (
        "an older policy",
        "finance/old STRICT @1; finance/young DISABLE @2",
        PolicyOutcome.SHADOWED,
        (
            "only one policy counts in a scope, and finance/old is older (created at "
            "2026-01-02T00:00:00Z)"
        ),
    ),
    (
        "an older policy that says nothing",
        "finance/old @1; finance/young DISABLE @2",
        PolicyOutcome.SHADOWED,
        (
            "only one policy counts in a scope, and finance/old is older (created at "
            "2026-01-02T00:00:00Z), even though its mode is UNSET"
        ),
    ),
    (
        "a policy of the same second",
        "finance/a STRICT @1; finance/b DISABLE @1",
        PolicyOutcome.SHADOWED,
        (
            "only one policy counts in a scope, and finance/a comes first by name (both were "
            "created at 2026-01-02T00:00:00Z)"
        ),
    ),
    (
        "two files",
        "finance/a STRICT; finance/b DISABLE",
        PolicyOutcome.SHADOWED,
        (
            "only one policy counts in a scope, and finance/a comes first by name (neither has a "
            "creationTimestamp)"
        ),
    ),
    (
        "a file and a stored policy",
        "finance/z STRICT; finance/b DISABLE @1",
        PolicyOutcome.SHADOWED,
        (
            "only one policy counts in a scope, and finance/z has no creationTimestamp, which "
            "counts as the oldest"
        ),
    ),
    (
        "another value",
        "finance/api {app=api} STRICT",
        PolicyOutcome.NO_MATCH,
        "its selector needs app=api, and the workload has app=web",
    ),
    (
        "no such label",
        "finance/web {app=web,tier=front} STRICT",
        PolicyOutcome.NO_MATCH,
        "its selector needs tier=front, and the workload has no label tier",
    ),
    (
        "a selector in the root namespace",
        "istio-system/web {app=web} STRICT",
        PolicyOutcome.NO_MATCH,
        "it has a selector, and in the root namespace such a policy holds for no workload",
    ),
]


@pytest.mark.parametrize(
    ("text", "outcome", "why"), [row[1:] for row in FATES], ids=[row[0] for row in FATES]
)
def test_each_policy_says_why_it_counts_or_not(
    decide: Decide, text: str, outcome: PolicyOutcome, why: str
) -> None:
    subject = text.rpartition(";")[2].split()[0]
    verdict = decide(text, "finance app=web")
    fate = next(each for each in verdict.considered if each.policy == subject)
    assert (fate.verdict, fate.why) == (outcome, why)


def test_a_hostile_label_of_the_workload_is_escaped_in_the_reason(policies: Policies) -> None:
    index = PolicyIndex(policies("finance/web {app=web} STRICT"), "istio-system")
    (fate,) = index.effective("finance", {"app": "\x1b[2J"}).considered
    assert fate.why == 'its selector needs app=web, and the workload has app="\\u001b[2J"'
