"""The effective mode, row by row: what istiod's own resolver decides for the same policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
import pytest

from troth.policy.index import PolicyIndex
from troth.policy.model import Mode, PeerAuthentication
from troth.policy.verdict import PolicyVerdict

Decide: TypeAlias = Callable[..., PolicyVerdict]
Policies: TypeAlias = Callable[[str], list[PeerAuthentication]]

# One policy per scope, each absent (-) or of a mode. A cell is the effective mode and the scope
# it comes from: m(esh), n(amespace), w(orkload) or d(efault).
PRECEDENCE = """
mesh        namespace   | -            UNSET        STRICT     PERMISSIVE   DISABLE
-           -           | PERMISSIVE:d PERMISSIVE:d STRICT:w   PERMISSIVE:w DISABLE:w
-           UNSET       | PERMISSIVE:d PERMISSIVE:d STRICT:w   PERMISSIVE:w DISABLE:w
-           STRICT      | STRICT:n     STRICT:n     STRICT:w   PERMISSIVE:w DISABLE:w
-           PERMISSIVE  | PERMISSIVE:n PERMISSIVE:n STRICT:w   PERMISSIVE:w DISABLE:w
-           DISABLE     | DISABLE:n    DISABLE:n    STRICT:w   PERMISSIVE:w DISABLE:w
UNSET       -           | PERMISSIVE:d PERMISSIVE:d STRICT:w   PERMISSIVE:w DISABLE:w
UNSET       UNSET       | PERMISSIVE:d PERMISSIVE:d STRICT:w   PERMISSIVE:w DISABLE:w
UNSET       STRICT      | STRICT:n     STRICT:n     STRICT:w   PERMISSIVE:w DISABLE:w
UNSET       PERMISSIVE  | PERMISSIVE:n PERMISSIVE:n STRICT:w   PERMISSIVE:w DISABLE:w
UNSET       DISABLE     | DISABLE:n    DISABLE:n    STRICT:w   PERMISSIVE:w DISABLE:w
STRICT      -           | STRICT:m     STRICT:m     STRICT:w   PERMISSIVE:w DISABLE:w
STRICT      UNSET       | STRICT:m     STRICT:m     STRICT:w   PERMISSIVE:w DISABLE:w
STRICT      STRICT      | STRICT:n     STRICT:n     STRICT:w   PERMISSIVE:w DISABLE:w
STRICT      PERMISSIVE  | PERMISSIVE:n PERMISSIVE:n STRICT:w   PERMISSIVE:w DISABLE:w
STRICT      DISABLE     | DISABLE:n    DISABLE:n    STRICT:w   PERMISSIVE:w DISABLE:w
PERMISSIVE  -           | PERMISSIVE:m PERMISSIVE:m STRICT:w   PERMISSIVE:w DISABLE:w
PERMISSIVE  UNSET       | PERMISSIVE:m PERMISSIVE:m STRICT:w   PERMISSIVE:w DISABLE:w
PERMISSIVE  STRICT      | STRICT:n     STRICT:n     STRICT:w   PERMISSIVE:w DISABLE:w
PERMISSIVE  PERMISSIVE  | PERMISSIVE:n PERMISSIVE:n STRICT:w   PERMISSIVE:w DISABLE:w
PERMISSIVE  DISABLE     | DISABLE:n    DISABLE:n    STRICT:w   PERMISSIVE:w DISABLE:w
DISABLE     -           | DISABLE:m    DISABLE:m    STRICT:w   PERMISSIVE:w DISABLE:w
DISABLE     UNSET       | DISABLE:m    DISABLE:m    STRICT:w   PERMISSIVE:w DISABLE:w
DISABLE     STRICT      | STRICT:n     STRICT:n     STRICT:w   PERMISSIVE:w DISABLE:w
DISABLE     PERMISSIVE  | PERMISSIVE:n PERMISSIVE:n STRICT:w   PERMISSIVE:w DISABLE:w
DISABLE     DISABLE     | DISABLE:n    DISABLE:n    STRICT:w   PERMISSIVE:w DISABLE:w
"""

DECIDERS = {
    "m": "istio-system/default (mesh)",
    "n": "finance/default (namespace)",
    "w": "finance/web (workload)",
    "d": "the default",
}


def precedence_rows() -> list[tuple[str, str, str, str]]:
    """(mesh, namespace, workload, expected cell) for every cell of `PRECEDENCE`."""
    head, *lines = PRECEDENCE.strip().splitlines()
    workloads = head.partition("|")[2].split()
    rows = []
    for line in lines:
        wide, _, cells = line.partition("|")
        mesh, namespace = wide.split()
        rows += [
            (mesh, namespace, workload, cell)
            for workload, cell in zip(workloads, cells.split(), strict=True)
        ]
    return rows


@pytest.mark.parametrize(("mesh", "namespace", "workload", "expected"), precedence_rows())
def test_the_narrowest_scope_that_sets_a_mode_decides(
    decide: Decide, mesh: str, namespace: str, workload: str, expected: str
) -> None:
    scopes = {
        "istio-system/default": mesh,
        "finance/default": namespace,
        "finance/web {app=web}": workload,
    }
    text = ";".join(f"{policy} {mode}" for policy, mode in scopes.items() if mode != "-")
    mode, _, decider = expected.partition(":")
    verdict = decide(text, "finance app=web")
    assert (verdict.mode, str(verdict.decided_by)) == (mode, DECIDERS[decider])


# (what it shows, policies, workload, mode and where from)
MODES = [
    (
        "the oldest of a scope counts",
        "finance/b STRICT @1; finance/a DISABLE @2",
        "finance",
        "STRICT from finance/b (namespace)",
    ),
    (
        "the oldest of the mesh scope counts",
        "istio-system/b STRICT @1; istio-system/a DISABLE @2",
        "finance",
        "STRICT from istio-system/b (mesh)",
    ),
    (
        "the oldest of the workload scope counts",
        "finance/b {app=web} STRICT @1; finance/a {app=web} DISABLE @2",
        "finance app=web",
        "STRICT from finance/b (workload)",
    ),
    (
        "a younger policy is no fallback when the oldest is UNSET",
        "finance/old UNSET @1; finance/young STRICT @2",
        "finance",
        "PERMISSIVE from the default",
    ),
    (
        "a younger workload policy is no fallback either: the namespace is",
        "finance/default DISABLE @1; finance/old {app=web} @2; finance/young {app=web} STRICT @3",
        "finance app=web",
        "DISABLE from finance/default (namespace)",
    ),
    (
        "a younger mesh policy is no fallback either",
        "istio-system/old @1; istio-system/young STRICT @2",
        "finance",
        "PERMISSIVE from the default",
    ),
    (
        "an old wide policy does not outrank a young narrow one",
        "istio-system/default STRICT @1; finance/default DISABLE @9",
        "finance",
        "DISABLE from finance/default (namespace)",
    ),
    (
        "a more specific selector does not matter, an older one does",
        "finance/wide {app=web} STRICT @1; finance/narrow {app=web,version=v1} DISABLE @2",
        "finance app=web version=v1",
        "STRICT from finance/wide (workload)",
    ),
    (
        "the more specific selector counts where it is the older one",
        "finance/wide {app=web} STRICT @2; finance/narrow {app=web,version=v1} DISABLE @1",
        "finance app=web version=v1",
        "DISABLE from finance/narrow (workload)",
    ),
    (
        "equal timestamps: the name that sorts first",
        "finance/b STRICT @1; finance/a DISABLE @1",
        "finance",
        "DISABLE from finance/a (namespace)",
    ),
    (
        "names sort by bytes: rule-10 before rule-9",
        "finance/rule-9 STRICT @1; finance/rule-10 DISABLE @1",
        "finance",
        "DISABLE from finance/rule-10 (namespace)",
    ),
    (
        "names sort by bytes: a dash before a dot before a letter",
        "finance/ab STRICT @1; finance/a.b PERMISSIVE @1; finance/a-b DISABLE @1",
        "finance",
        "DISABLE from finance/a-b (namespace)",
    ),
    (
        "a name that is the beginning of another sorts first",
        "finance/web-1 STRICT @1; finance/web DISABLE @1",
        "finance",
        "DISABLE from finance/web (namespace)",
    ),
    (
        "without timestamps: by name",
        "finance/b {app=web} STRICT; finance/a {app=web} DISABLE",
        "finance app=web",
        "DISABLE from finance/a (workload)",
    ),
    (
        "a policy without a timestamp is before all that have one",
        "finance/a STRICT @1; finance/b DISABLE",
        "finance",
        "DISABLE from finance/b (namespace)",
    ),
    (
        "all labels of a selector must match",
        "finance/web {app=web,version=v2} STRICT",
        "finance app=web version=v1",
        "PERMISSIVE from the default",
    ),
    (
        "a missing label does not match",
        "finance/web {app=web,version=v2} STRICT",
        "finance app=web",
        "PERMISSIVE from the default",
    ),
    (
        "further labels of the workload do no harm",
        "finance/web {app=web} STRICT",
        "finance tier=front app=web version=v1",
        "STRICT from finance/web (workload)",
    ),
    (
        "a workload without labels matches no selector",
        "finance/web {app=web} STRICT",
        "finance",
        "PERMISSIVE from the default",
    ),
    (
        "label values are compared exactly",
        "finance/web {app=Web} STRICT",
        "finance app=web",
        "PERMISSIVE from the default",
    ),
    (
        "an empty label value is a value",
        "finance/web {app=} STRICT",
        "finance app=",
        "STRICT from finance/web (workload)",
    ),
    (
        "an empty label value is not a missing label",
        "finance/web {app=} STRICT",
        "finance",
        "PERMISSIVE from the default",
    ),
    (
        "the oldest policy that matches counts, not the oldest of all",
        "finance/api {app=api} DISABLE @1; finance/web {app=web} STRICT @2",
        "finance app=web",
        "STRICT from finance/web (workload)",
    ),
    (
        "the oldest match wins over different labels",
        "finance/b {tier=front} STRICT @1; finance/a {app=web} DISABLE @2",
        "finance app=web tier=front",
        "STRICT from finance/b (workload)",
    ),
    (
        "a policy with a selector in the root namespace holds for no other namespace",
        "istio-system/web {app=web} STRICT",
        "finance app=web",
        "PERMISSIVE from the default",
    ),
    (
        "a policy with a selector in the root namespace does not even hold there",
        "istio-system/web {app=web} STRICT",
        "istio-system app=web",
        "PERMISSIVE from the default",
    ),
    (
        "an older policy with a selector in the root namespace hides no mesh-wide one",
        "istio-system/web {app=web} DISABLE @1; istio-system/default STRICT @2",
        "istio-system app=web",
        "STRICT from istio-system/default (mesh)",
    ),
    (
        "a workload in the root namespace has the mesh-wide mode",
        "istio-system/default STRICT",
        "istio-system app=istiod",
        "STRICT from istio-system/default (mesh)",
    ),
    (
        "another namespace's policy says nothing",
        "shop/default STRICT; shop/web {app=web} DISABLE",
        "finance app=web",
        "PERMISSIVE from the default",
    ),
    (
        "a namespace without policies of its own has the mesh-wide mode",
        "istio-system/default STRICT; shop/default DISABLE",
        "finance app=web",
        "STRICT from istio-system/default (mesh)",
    ),
    (
        "nothing but the root namespace is mesh-wide, whatever its name",
        "default/default STRICT",
        "finance",
        "PERMISSIVE from the default",
    ),
    (
        "istio/istio#56084: the mesh is DISABLE, one workload STRICT",
        "istio-system/default DISABLE @1; finance/payments {app=payments} STRICT @2",
        "finance app=payments",
        "STRICT from finance/payments (workload)",
    ),
    (
        "istio/istio#56084: its neighbour keeps the mesh's DISABLE",
        "istio-system/default DISABLE @1; finance/payments {app=payments} STRICT @2",
        "finance app=web",
        "DISABLE from istio-system/default (mesh)",
    ),
]


@pytest.mark.parametrize(
    ("text", "workload", "expected"), [row[1:] for row in MODES], ids=[row[0] for row in MODES]
)
def test_the_effective_mode(decide: Decide, text: str, workload: str, expected: str) -> None:
    verdict = decide(text, workload)
    assert f"{verdict.mode} from {verdict.decided_by}" == expected


# (what it shows, policies, port of finance app=web, mode and where from)
PORTS = [
    (
        "a port's own mode counts",
        "finance/web {app=web} STRICT 8080=DISABLE",
        8080,
        "DISABLE from finance/web (workload)",
    ),
    (
        "the other ports have the workload's mode",
        "finance/web {app=web} STRICT 8080=DISABLE",
        9090,
        "STRICT from finance/web (workload)",
    ),
    (
        "a port's mode counts where the workload's is UNSET",
        "finance/web {app=web} 8080=STRICT",
        8080,
        "STRICT from finance/web (workload)",
    ),
    (
        "the other ports then have the namespace's mode",
        "finance/default DISABLE; finance/web {app=web} 8080=STRICT",
        9090,
        "DISABLE from finance/default (namespace)",
    ),
    (
        "the other ports then have the mesh's mode",
        "istio-system/default STRICT; finance/web {app=web} 8080=DISABLE",
        9090,
        "STRICT from istio-system/default (mesh)",
    ),
    (
        "the other ports then have the default",
        "finance/web {app=web} 8080=STRICT",
        9090,
        "PERMISSIVE from the default",
    ),
    (
        "UNSET at a port inherits the workload's mode",
        "finance/web {app=web} STRICT 8080=UNSET",
        8080,
        "STRICT from finance/web (workload)",
    ),
    (
        "UNSET at a port and in its policy inherits the namespace's mode",
        "finance/default DISABLE; finance/web {app=web} 8080=UNSET",
        8080,
        "DISABLE from finance/default (namespace)",
    ),
    (
        "UNSET at a port and in its policy inherits the mesh's mode",
        "istio-system/default STRICT; finance/web {app=web} 8080=UNSET",
        8080,
        "STRICT from istio-system/default (mesh)",
    ),
    (
        "UNSET all the way is the default",
        "istio-system/default; finance/default; finance/web {app=web} 8080=UNSET",
        8080,
        "PERMISSIVE from the default",
    ),
    (
        "a younger policy's ports are not merged in",
        "finance/old {app=web} STRICT @1; finance/young {app=web} STRICT 8080=DISABLE @2",
        8080,
        "STRICT from finance/old (workload)",
    ),
    (
        "a younger policy's ports are not merged in when the oldest is UNSET",
        "finance/old {app=web} @1; finance/young {app=web} 8080=STRICT @2",
        8080,
        "PERMISSIVE from the default",
    ),
    (
        "a younger policy's ports are not merged in beside the oldest's own",
        "finance/old {app=web} 9090=STRICT @1; finance/young {app=web} 8080=STRICT @2",
        8080,
        "PERMISSIVE from the default",
    ),
    (
        "the ports of a policy that does not match say nothing",
        "finance/api {app=api} STRICT 8080=DISABLE",
        8080,
        "PERMISSIVE from the default",
    ),
    (
        "ports without a selector are ignored and the mode counts (namespace)",
        "finance/default STRICT 8080=DISABLE",
        8080,
        "STRICT from finance/default (namespace)",
    ),
    (
        "ports without a selector are ignored and the mode counts (mesh)",
        "istio-system/default STRICT 8080=DISABLE",
        8080,
        "STRICT from istio-system/default (mesh)",
    ),
    (
        "a port open in a STRICT mesh",
        "istio-system/default STRICT; finance/web {app=web} STRICT 8080=PERMISSIVE",
        8080,
        "PERMISSIVE from finance/web (workload)",
    ),
    (
        "istio/istio#56084 for one port: STRICT in a DISABLE mesh",
        "istio-system/default DISABLE; finance/web {app=web} 8080=STRICT",
        8080,
        "STRICT from finance/web (workload)",
    ),
    (
        "the first port",
        "finance/web {app=web} 1=STRICT",
        1,
        "STRICT from finance/web (workload)",
    ),
    (
        "the last port",
        "finance/web {app=web} 65535=STRICT",
        65535,
        "STRICT from finance/web (workload)",
    ),
]


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "not asked for"])
@pytest.mark.parametrize(
    ("text", "port", "expected"), [row[1:] for row in PORTS], ids=[row[0] for row in PORTS]
)
def test_the_effective_mode_of_a_port(
    decide: Decide, text: str, port: int, expected: str, *, asked: bool
) -> None:
    verdict = decide(text, "finance app=web", ports=(port,) if asked else ())
    assert f"{verdict.mode_of(port)} from {verdict.decider_of(port)}" == expected


def test_the_verdict_names_the_ports_asked_for_and_those_of_the_workload_policy_in_order(
    decide: Decide,
) -> None:
    verdict = decide("finance/web {app=web} 9090=STRICT 80=UNSET", "finance app=web", (8080, 443))
    assert list(verdict.ports) == [80, 443, 8080, 9090]


def test_the_verdict_does_not_name_the_ports_of_other_policies(decide: Decide) -> None:
    text = "finance/default 1=STRICT; finance/old {app=web} @1; finance/web {app=web} 2=STRICT @2"
    assert list(decide(text, "finance app=web", (3,)).ports) == [3]


@pytest.mark.parametrize(
    ("port", "why"),
    [
        (1, "portLevelMtls of finance/web sets DISABLE"),
        (
            2,
            (
                "portLevelMtls of finance/web leaves it UNSET, so the workload's mode holds: "
                "STRICT from finance/default (namespace)"
            ),
        ),
        (
            3,
            (
                "no portLevelMtls names it, so the workload's mode holds: STRICT from "
                "finance/default (namespace)"
            ),
        ),
    ],
    ids=["set", "unset", "not named"],
)
def test_a_port_says_why(decide: Decide, port: int, why: str) -> None:
    text = "finance/default STRICT; finance/web {app=web} 1=DISABLE 2=UNSET"
    assert decide(text, "finance app=web", (3,)).ports[port].why == why


def test_deciding_alone_gives_the_same_without_the_reasons(policies: Policies) -> None:
    text = "finance/default STRICT; finance/web {app=web} 8080=DISABLE"
    index = PolicyIndex(policies(text), "istio-system")
    decision = index.decide("finance", {"app": "web"}, [80])
    verdict = index.effective("finance", {"app": "web"}, [80])
    assert (decision.mode, decision.decided_by, decision.ports) == (
        verdict.mode,
        verdict.decided_by,
        verdict.ports,
    )


def test_a_verdict_survives_json(decide: Decide) -> None:
    text = "istio-system/default STRICT @1; finance/web {app=web} 8080=DISABLE"
    verdict = decide(text, "finance app=web", (80,))
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=PolicyVerdict) == verdict


def test_a_port_that_no_policy_and_nobody_named_has_the_workloads_mode(decide: Decide) -> None:
    verdict = decide("finance/web {app=web} STRICT 8080=DISABLE", "finance app=web")
    assert (verdict.mode_of(7), verdict.mode_of(8080)) == (Mode.STRICT, Mode.DISABLE)
