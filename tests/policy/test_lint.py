"""Policies that are valid but have no effect, or whose order only their names decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
import pytest

from troth.errors import Location, Severity
from troth.policy.lint import lint_policies
from troth.policy.model import PeerAuthentication

Policies: TypeAlias = Callable[[str], list[PeerAuthentication]]

MERGE = "merge the two into one policy"
NARROW = f"{MERGE}, or narrow the selector of the one that counts"
BY_NAME = "comes first by name (neither has a creationTimestamp)"
EXCLUDE = f"make the two selectors exclude each other, or {MERGE}"

DAY_1 = "created at 2026-01-02T00:00:00Z"
SHADOWED = "never has an effect, because {0} holds wherever it does and only one counts: {0}"

# (what it shows, policies, the subject of the one warning, the rest of it)
FOUND = [
    (
        "a younger namespace-wide policy",
        "finance/old STRICT @1; finance/young DISABLE @2",
        "finance/young",
        f"{SHADOWED.format('finance/old')} is older ({DAY_1}); {MERGE}",
    ),
    (
        "a younger namespace-wide policy whose older one is UNSET",
        "finance/old @1; finance/young DISABLE @2",
        "finance/young",
        f"{SHADOWED.format('finance/old')} is older ({DAY_1}); {MERGE}",
    ),
    (
        "a younger mesh-wide policy",
        "istio-system/a STRICT @2; istio-system/b DISABLE @1",
        "istio-system/a",
        f"{SHADOWED.format('istio-system/b')} is older ({DAY_1}); {MERGE}",
    ),
    (
        "two namespace-wide policies of the same second",
        "finance/b STRICT @1; finance/a DISABLE @1",
        "finance/b",
        f"{SHADOWED.format('finance/a')} comes first by name (both were {DAY_1}); {MERGE}",
    ),
    (
        "two files that are namespace-wide",
        "finance/b STRICT; finance/a DISABLE",
        "finance/b",
        f"{SHADOWED.format('finance/a')} {BY_NAME}; {MERGE}",
    ),
    (
        "two files that are mesh-wide",
        "istio-system/b STRICT; istio-system/a DISABLE",
        "istio-system/b",
        f"{SHADOWED.format('istio-system/a')} {BY_NAME}; {MERGE}",
    ),
    (
        "the same selector twice",
        "finance/b {app=web} STRICT; finance/a {app=web} DISABLE",
        "finance/b",
        f"spec.selector: {SHADOWED.format('finance/a')} {BY_NAME}; {NARROW}",
    ),
    (
        "a younger policy with a more specific selector",
        "finance/wide {app=web} STRICT @1; finance/narrow {app=web,version=v1} DISABLE @2",
        "finance/narrow",
        f"spec.selector: {SHADOWED.format('finance/wide')} is older ({DAY_1}); {NARROW}",
    ),
    (
        "a file before a stored policy",
        "finance/z {app=web} STRICT; finance/a {app=web} DISABLE @1",
        "finance/a",
        (
            f"spec.selector: {SHADOWED.format('finance/z')} has no creationTimestamp, which counts "
            f"as the oldest; {NARROW}"
        ),
    ),
    (
        "a selector in the root namespace",
        "istio-system/web {app=web} STRICT",
        "istio-system/web",
        (
            "spec.selector: a policy with a selector in the root namespace (istio-system) holds "
            "for no workload; move it to the workload's namespace, or leave the selector out to "
            "make it mesh-wide"
        ),
    ),
]


@pytest.mark.parametrize(
    ("text", "subject", "message"), [row[1:] for row in FOUND], ids=[row[0] for row in FOUND]
)
def test_a_policy_without_effect_is_found(
    policies: Policies, text: str, subject: str, message: str
) -> None:
    (problem,) = lint_policies(policies(text), root_namespace="istio-system")
    assert str(problem) == f"PeerAuthentication {subject}: {message}"
    assert problem.severity is Severity.WARNING


@pytest.mark.parametrize(
    "text",
    [
        "",
        "istio-system/default STRICT; finance/default DISABLE; shop/default",
        "finance/default STRICT; finance/web {app=web} STRICT; finance/api {app=api} STRICT",
        "finance/wide {app=web} STRICT @2; finance/narrow {app=web,version=v1} DISABLE @1",
        "finance/web {app=web} STRICT; finance/front {tier=front} DISABLE",
        "finance/web {app=web} STRICT; shop/web {app=web} DISABLE",
        "finance/web {app=web} STRICT",
    ],
    ids=[
        "none",
        "one of each scope",
        "different selectors",
        "the more specific is the older",
        "selectors that may meet but need not",
        "the same selector in two namespaces",
        "a selector outside the root namespace",
    ],
)
def test_a_policy_that_can_have_an_effect_is_left_alone(policies: Policies, text: str) -> None:
    assert lint_policies(policies(text), root_namespace="istio-system") == ()


WEB_FRONT = ("finance", {"app": "web", "tier": "front", "pod": "1"})


def test_files_that_meet_on_a_workload_are_found_once(policies: Policies) -> None:
    text = "finance/web {app=web} STRICT; finance/front {tier=front} DISABLE"
    workloads = [WEB_FRONT, ("finance", {**WEB_FRONT[1], "pod": "2"}), WEB_FRONT]
    (problem,) = lint_policies(
        policies(text), root_namespace="istio-system", workloads=iter(workloads)
    )
    assert str(problem) == (
        "PeerAuthentication finance/web: spec.selector: also selects workloads of finance/front "
        "(those with tier=front, app=web), and has no effect on them: finance/front comes first by "
        f"name (neither has a creationTimestamp); {EXCLUDE}"
    )


@pytest.mark.parametrize(
    ("text", "workload"),
    [
        (
            "finance/web {app=web} STRICT; finance/front {tier=front} DISABLE",
            ("finance", {"app": "web", "tier": "back"}),
        ),
        (
            "finance/web {app=web} STRICT; finance/front {tier=front} DISABLE",
            ("shop", WEB_FRONT[1]),
        ),
        ("finance/web {app=web} STRICT @1; finance/front {tier=front} DISABLE @2", WEB_FRONT),
        ("finance/web {app=web} STRICT; finance/default DISABLE", WEB_FRONT),
    ],
    ids=["no workload of both", "another namespace", "age decides", "different scopes"],
)
def test_files_that_do_not_meet_are_left_alone(
    policies: Policies, text: str, workload: tuple[str, dict[str, str]]
) -> None:
    found = lint_policies(policies(text), root_namespace="istio-system", workloads=[workload])
    assert found == ()


def test_what_is_always_shadowed_is_not_reported_again_for_a_workload(policies: Policies) -> None:
    text = "finance/b {app=web} STRICT; finance/a {app=web} DISABLE"
    found = lint_policies(policies(text), root_namespace="istio-system", workloads=[WEB_FRONT])
    assert [(problem.subject, problem.wanted) for problem in found] == [
        ("PeerAuthentication finance/b", NARROW)
    ]


def test_warnings_come_by_namespace_and_name_with_the_place(policies: Policies) -> None:
    text = "shop/b; shop/a; istio-system/z {a=b}; finance/c; finance/b; finance/a"
    placed = [
        msgspec.structs.replace(policy, location=Location("mesh.yaml", line))
        for line, policy in enumerate(policies(text), start=1)
    ]
    found = lint_policies(placed, root_namespace="istio-system")
    assert [(problem.subject, problem.location) for problem in found] == [
        ("PeerAuthentication finance/b", Location("mesh.yaml", 5)),
        ("PeerAuthentication finance/c", Location("mesh.yaml", 4)),
        ("PeerAuthentication istio-system/z", Location("mesh.yaml", 3)),
        ("PeerAuthentication shop/b", Location("mesh.yaml", 1)),
    ]
