"""docs/conformance.md says what troth makes of each manifest there."""

from __future__ import annotations

import pytest
from tests.conformance import Case, cases

from troth.errors import Severity
from troth.explain.explain import explain
from troth.explain.validate import validate
from troth.identity.spiffe import DEFAULT_TRUST_DOMAIN, TrustDomain
from troth.manifests.collect import collect
from troth.manifests.yaml import read_documents
from troth.policy.model import Mode

CASES = cases()
ROOT = "istio-system"
STRICT = """
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {troth.dev/mesh: enabled}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
"""


def verdict(manifest: str, *, stored: bool) -> str:
    """What the page would say."""
    documents, problems = read_documents(manifest, "case.yaml")
    report = validate(collect(documents, problems, stored=stored), root_namespace=ROOT)
    for severity, word in ((Severity.ERROR, "refused"), (Severity.WARNING, "warned")):
        for problem in report.problems:
            if problem.severity is severity:
                return f"{word}: `{problem.path}`" if problem.path else word
    return "taken"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_files_are_judged_as_the_page_says(case: Case) -> None:
    assert verdict(case.manifest, stored=False) == case.files


@pytest.mark.parametrize(
    "case",
    [each for each in CASES if not each.cluster.startswith("not ")],
    ids=lambda case: case.title,
)
def test_what_is_stored_is_judged_as_the_page_says(case: Case) -> None:
    assert verdict(case.manifest, stored=True) == case.cluster


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_nothing_that_an_api_server_stores_is_refused_in_a_cluster(case: Case) -> None:
    assert not (case.server == "taken" and case.cluster.startswith("refused"))


@pytest.mark.parametrize("value", ["istio", "disabled"])
def test_the_label_tls_mode_of_istio_changes_no_mode(value: str) -> None:
    (pod,) = (each.manifest for each in CASES if "security.istio.io/tlsMode" in each.title)
    documents, problems = read_documents(pod.replace("disabled", value) + STRICT, "case.yaml")
    explained = explain(
        collect(documents, problems),
        "shop/web",
        root_namespace=ROOT,
        trust_domain=TrustDomain.parse(DEFAULT_TRUST_DOMAIN),
    )
    assert (explained.explanation.in_mesh, explained.explanation.mode) == (True, Mode.STRICT)


def test_a_destination_rule_is_named_to_who_runs_a_local_mesh() -> None:
    (rule,) = (each.manifest for each in CASES if "DestinationRule" in each.title)
    documents, problems = read_documents(rule, "case.yaml")
    (problem,) = validate(collect(documents, problems), root_namespace=ROOT, local=True).problems
    assert problem.subject == "DestinationRule.networking.istio.io"
    assert "connections are made as ever" in problem.found
