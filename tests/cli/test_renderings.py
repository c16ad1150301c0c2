"""What people see of explain and plan, as whole texts beside this file.

To look at a changed rendering, print what ``rendered`` returns.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from tests.columns import assert_whole
from tests.explain.notation import ROOT, objects

from troth.cli.explain import render_derivation
from troth.cli.plan import render_plan
from troth.explain.explain import explain
from troth.explain.noted import Plaintext
from troth.explain.plan import plan
from troth.identity.spiffe import TrustDomain

if TYPE_CHECKING:
    from rich.console import RenderableType

GOLDEN = Path(__file__).with_name("golden") / "offline"
WORKLOADS = [
    "+finance",
    "Deployment finance/payments 8080 9090",
    "Deployment finance/web 8080",
    "Pod legacy/cron",
]


def rendered(value: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=120, highlight=False).print(value)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def explanation(name: str, *policies: str) -> RenderableType:
    domain = TrustDomain.parse("cluster.local")
    manifests = objects(*WORKLOADS, *policies)
    return render_derivation(explain(manifests, name, root_namespace=ROOT, trust_domain=domain))


def change(before: list[str], after: list[str], *observed: Plaintext) -> RenderableType:
    return render_plan(
        plan(objects(*before), objects(*after), root_namespace=ROOT, observed=observed)
    )


SEEN = Plaintext(
    source="legacy/cron",
    destination="finance/payments",
    port=8080,
    count=12,
    last=datetime(2026, 1, 31, 12, 0, tzinfo=UTC),
)
LOAD_BALANCER = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: finance}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 443, targetPort: 8080}]}
"""
KAFKA = """\
apiVersion: kafka.strimzi.io/v1beta2
kind: Kafka
metadata: {name: log, namespace: finance}
"""
MANY = ["+finance", "Pod finance/web 8080", *(f"Pod legacy/job-{number}" for number in range(30))]

RENDERINGS = {
    "explain-derivation": lambda: explanation(
        "finance/payments",
        "istio-system/default STRICT",
        "finance/default",
        "finance/payments-mtls {app=payments} UNSET 8080=DISABLE",
        "finance/zz {app=payments} PERMISSIVE",
        "finance/web {app=web} DISABLE",
    ),
    "explain-default": lambda: explanation("finance/web"),
    "explain-outside": lambda: explanation("legacy/cron", "istio-system/default STRICT"),
    "explain-labels": lambda: explanation("finance/app=new,v=1", "finance/default STRICT"),
    "plan-strict": lambda: change(
        WORKLOADS,
        [*WORKLOADS, "finance/default STRICT", "finance/p {app=payments} UNSET 9090=PERMISSIVE"],
        SEEN,
    ),
    "plan-disable": lambda: change(
        WORKLOADS, [*WORKLOADS, "finance/p {app=payments} UNSET 9090=DISABLE"]
    ),
    "plan-leaving": lambda: change(
        [*WORKLOADS, "finance/default STRICT"],
        ["-finance", *WORKLOADS[1:], "finance/default STRICT"],
    ),
    "plan-many-clients": lambda: change(MANY, [*MANY, "finance/default STRICT"]),
    "plan-front-door": lambda: render_plan(
        plan(
            objects(*WORKLOADS[:3], more=LOAD_BALANCER),
            objects(*WORKLOADS[:3], "finance/default STRICT", more=LOAD_BALANCER),
            root_namespace=ROOT,
        )
    ),
    "plan-unknown": lambda: render_plan(
        plan(
            objects(*WORKLOADS[:3], more=KAFKA),
            objects(*WORKLOADS[:3], "finance/default STRICT", more=KAFKA),
            root_namespace=ROOT,
        )
    ),
    "plan-nothing": lambda: change(WORKLOADS, WORKLOADS),
}


@pytest.mark.parametrize("name", RENDERINGS)
def test_a_rendering_reads_as_its_golden(name: str) -> None:
    assert rendered(RENDERINGS[name]()) == (GOLDEN / f"{name}.txt").read_text("utf-8")


@pytest.mark.parametrize("name", RENDERINGS)
def test_a_rendering_loses_nothing_on_a_narrow_terminal(name: str) -> None:
    assert_whole(RENDERINGS[name]())


def test_every_golden_is_a_rendering() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(RENDERINGS)
