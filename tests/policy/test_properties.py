"""What holds for any set of policies and any document, whatever it is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from troth.errors import Severity
from troth.policy.index import PolicyChanges, PolicyIndex
from troth.policy.lint import lint_policies
from troth.policy.model import Mode, PeerAuthentication
from troth.policy.parse import parse_peer_authentication
from troth.policy.scope import Scope
from troth.policy.verdict import PolicyOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = "root"
START = datetime(2026, 1, 1, tzinfo=UTC)

namespaces = st.sampled_from([ROOT, "finance", "shop"])
a_or_b = st.sampled_from("ab")
labels = st.fixed_dictionaries({}, optional={"app": a_or_b, "tier": a_or_b})
some_labels = st.fixed_dictionaries({"app": a_or_b}, optional={"tier": a_or_b})
modes = st.sampled_from(Mode)
set_modes = st.sampled_from([Mode.STRICT, Mode.PERMISSIVE, Mode.DISABLE])
days = st.integers(1, 3).map(lambda day: START + timedelta(days=day))
policies = st.builds(
    PeerAuthentication,
    namespace=namespaces,
    name=st.sampled_from("abcd"),
    selector=labels,
    mode=modes,
    port_modes=st.fixed_dictionaries({}, optional={80: modes, 8080: modes}),
    created=st.none() | days,
)
meshes = st.lists(policies, max_size=8, unique_by=lambda policy: policy.key)
asked = st.lists(st.sampled_from([80, 443]))
apart = st.sampled_from([("finance", "shop"), ("shop", "finance"), ("finance", ROOT)])
"""A policy's namespace, and one that it has no say in."""


def istio(mesh: list[PeerAuthentication], namespace: str, of: Mapping[str, str]) -> dict[int, Mode]:
    """The obvious, slow way, as istiod goes about it; port 0 stands for all others."""
    chosen: dict[str, PeerAuthentication] = {}
    for policy in sorted(
        mesh, key=lambda p: (p.created or datetime.min.replace(tzinfo=UTC), p.key)
    ):
        if policy.namespace not in {ROOT, namespace}:
            continue
        if not policy.selector:
            chosen.setdefault("mesh" if policy.namespace == ROOT else "namespace", policy)
        elif policy.namespace != ROOT and all(of.get(k) == v for k, v in policy.selector.items()):
            chosen.setdefault("workload", policy)
    mode = Mode.PERMISSIVE
    for scope in ("mesh", "namespace", "workload"):
        if scope in chosen and chosen[scope].mode is not Mode.UNSET:
            mode = chosen[scope].mode
    entries = chosen["workload"].port_modes if "workload" in chosen else {}
    ports = {port: mode if entry is Mode.UNSET else entry for port, entry in entries.items()}
    return {0: mode, **ports}


@given(meshes, namespaces, labels)
def test_the_index_decides_as_the_obvious_slow_way_does(
    mesh: list[PeerAuthentication], namespace: str, of: dict[str, str]
) -> None:
    decision = PolicyIndex(mesh, ROOT).decide(namespace, of)
    ports = {port: verdict.mode for port, verdict in decision.ports.items()}
    assert {0: decision.mode, **ports} == istio(mesh, namespace, of)


@given(meshes, namespaces, labels, asked)
def test_a_verdict_is_complete_and_never_unset(
    mesh: list[PeerAuthentication], namespace: str, of: dict[str, str], ports: list[int]
) -> None:
    verdict = PolicyIndex(mesh, ROOT).effective(namespace, of, ports)
    assert {*ports} <= {*verdict.ports}
    assert Mode.UNSET not in {verdict.mode, *(port.mode for port in verdict.ports.values())}
    visible = [policy.key for policy in mesh if policy.namespace in {ROOT, namespace}]
    assert sorted(each.policy for each in verdict.considered) == sorted(visible)


@given(meshes, namespaces, labels, asked)
def test_exactly_the_policies_that_some_mode_comes_from_decide(
    mesh: list[PeerAuthentication], namespace: str, of: dict[str, str], ports: list[int]
) -> None:
    verdict = PolicyIndex(mesh, ROOT).effective(namespace, of, ports)
    sources = {verdict.decided_by, *(port.decided_by for port in verdict.ports.values())}
    deciding = {each.policy for each in verdict.considered if each.verdict is PolicyOutcome.DECIDES}
    assert deciding == {source.policy for source in sources} - {None}


@given(meshes, namespaces, labels, st.data())
def test_the_order_of_the_policies_never_matters(
    mesh: list[PeerAuthentication], namespace: str, of: dict[str, str], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(mesh))
    assert PolicyIndex(shuffled, ROOT).effective(namespace, of, [80]) == PolicyIndex(
        mesh, ROOT
    ).effective(namespace, of, [80])
    assert lint_policies(shuffled, root_namespace=ROOT) == lint_policies(mesh, root_namespace=ROOT)


@given(meshes, policies, apart, labels)
def test_a_policy_changes_no_other_namespace_unless_it_is_in_the_root_namespace(
    mesh: list[PeerAuthentication],
    policy: PeerAuthentication,
    places: tuple[str, str],
    of: dict[str, str],
) -> None:
    own, namespace = places
    policy = msgspec.structs.replace(policy, namespace=own, name="another")
    before = PolicyIndex(mesh, ROOT).effective(namespace, of, [80])
    assert PolicyIndex([*mesh, policy], ROOT).effective(namespace, of, [80]) == before


@given(meshes, set_modes, labels)
def test_the_oldest_mesh_wide_policy_decides_where_nothing_narrower_does(
    mesh: list[PeerAuthentication], mode: Mode, of: dict[str, str]
) -> None:
    oldest = PeerAuthentication(namespace=ROOT, name="0", mode=mode)
    decision = PolicyIndex([*mesh, oldest], ROOT).decide("finance", of)
    without = PolicyIndex(mesh, ROOT).decide("finance", of)
    if without.decided_by.scope in {Scope.NAMESPACE, Scope.WORKLOAD}:
        assert decision == without
    else:
        assert (decision.mode, decision.decided_by.policy) == (mode, oldest.key)


@given(meshes, set_modes, labels)
def test_the_oldest_namespace_wide_policy_beats_the_mesh(
    mesh: list[PeerAuthentication], mode: Mode, of: dict[str, str]
) -> None:
    oldest = PeerAuthentication(namespace="finance", name="0", mode=mode)
    decision = PolicyIndex([*mesh, oldest], ROOT).decide("finance", of)
    without = PolicyIndex(mesh, ROOT).decide("finance", of)
    if without.decided_by.scope is Scope.WORKLOAD:
        assert decision == without
    else:
        assert (decision.mode, decision.decided_by.policy) == (mode, oldest.key)


@given(meshes, set_modes, some_labels)
def test_the_oldest_workload_policy_beats_everything(
    mesh: list[PeerAuthentication], mode: Mode, of: dict[str, str]
) -> None:
    oldest = PeerAuthentication(namespace="finance", name="0", selector=of, mode=mode)
    decision = PolicyIndex([*mesh, oldest], ROOT).decide("finance", of)
    assert (decision.mode, decision.decided_by.policy) == (mode, oldest.key)


@given(meshes, policies, namespaces, labels)
def test_removing_a_policy_restores_what_was_before(
    mesh: list[PeerAuthentication], policy: PeerAuthentication, namespace: str, of: dict[str, str]
) -> None:
    assume(policy.key not in {each.key for each in mesh})
    before = PolicyIndex(mesh, ROOT).effective(namespace, of)
    added = [policy, *mesh]
    PolicyIndex(added, ROOT).effective(namespace, of)
    removed = [each for each in added if each.key != policy.key]
    assert PolicyIndex(removed, ROOT).effective(namespace, of) == before


@given(meshes, namespaces, labels)
def test_a_policy_that_lost_can_be_removed_without_a_change(
    mesh: list[PeerAuthentication], namespace: str, of: dict[str, str]
) -> None:
    verdict = PolicyIndex(mesh, ROOT).effective(namespace, of, [80])
    lost = {
        each.policy
        for each in verdict.considered
        # A head that inherits hides the younger ones, so it isn't among these; nor is one that
        # loses to a narrower scope, for the same reason, unless another of its scope goes too.
        if each.verdict is PolicyOutcome.NO_MATCH or "only one policy counts" in each.why
    }
    rest = [policy for policy in mesh if policy.key not in lost]
    assert PolicyIndex(rest, ROOT).decide(namespace, of, [80]) == PolicyIndex(mesh, ROOT).decide(
        namespace, of, [80]
    )


@given(meshes, namespaces, labels)
def test_what_the_linter_calls_without_effect_decides_nothing_anywhere(
    mesh: list[PeerAuthentication], namespace: str, of: dict[str, str]
) -> None:
    useless = {problem.subject.split()[1] for problem in lint_policies(mesh, root_namespace=ROOT)}
    verdict = PolicyIndex(mesh, ROOT).effective(namespace, of)
    deciding = {each.policy for each in verdict.considered if each.verdict is PolicyOutcome.DECIDES}
    assert not deciding & useless


@given(st.lists(meshes, min_size=2, max_size=4), namespaces, labels)
def test_an_index_that_was_changed_decides_as_one_made_anew(
    history: list[list[PeerAuthentication]], namespace: str, of: dict[str, str]
) -> None:
    before, *later = history
    index = PolicyIndex(before, ROOT)
    for mesh in later:
        index = index.changed(PolicyChanges.between(before, mesh))
        anew = PolicyIndex(mesh, ROOT)
        assert index.decide(namespace, of, [80]) == anew.decide(namespace, of, [80])
        assert index.effective(namespace, of, [80]) == anew.effective(namespace, of, [80])
        before = mesh


@given(meshes, meshes)
def test_changes_are_what_only_one_of_two_sets_has(
    before: list[PeerAuthentication], after: list[PeerAuthentication]
) -> None:
    changes = PolicyChanges.between(before, after)
    assert [policy for policy in before if policy not in after] == list(changes.removed)
    assert [policy for policy in after if policy not in before] == list(changes.added)


@given(policies)
def test_a_policy_that_is_written_out_reads_back_the_same(policy: PeerAuthentication) -> None:
    spec: dict[str, Any] = {"mtls": {"mode": str(policy.mode)}}
    if policy.selector:
        spec["selector"] = {"matchLabels": policy.selector}
    if policy.selector and policy.port_modes:
        spec["portLevelMtls"] = {
            str(port): {"mode": str(mode)} for port, mode in policy.port_modes.items()
        }
    else:
        policy = msgspec.structs.replace(policy, port_modes={})
    metadata = {
        "namespace": policy.namespace,
        "name": policy.name,
        "creationTimestamp": policy.created and policy.created.isoformat(),
    }
    document = {
        "apiVersion": policy.api_version,
        "kind": "PeerAuthentication",
        "metadata": metadata,
        "spec": spec,
    }
    assert parse_peer_authentication(document) == (policy, ())
    assert parse_peer_authentication(msgspec.json.decode(msgspec.json.encode(document))) == (
        policy,
        (),
    )


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**20, 80, "80", "STRICT", "web", ""])
    | st.floats()
    | st.text(st.characters())  # lone surrogates too: JSON can carry them
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=st.timezones())
)
values = st.recursive(
    scalars | st.just(date.min),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(scalars, inner, max_size=3)
        | st.sets(scalars, max_size=3)
    ),
    max_leaves=6,
)
mtls = values | st.fixed_dictionaries({}, optional={"mode": values | modes.map(str)})
almost = st.fixed_dictionaries(
    {},
    optional={
        "apiVersion": values | st.just("security.istio.io/v1"),
        "kind": values | st.just("PeerAuthentication"),
        "metadata": values
        | st.fixed_dictionaries(
            {},
            optional={
                "name": values | st.just("web"),
                "namespace": values | st.just("finance"),
                "creationTimestamp": values,
            },
        ),
        "spec": values
        | st.fixed_dictionaries(
            {},
            optional={
                "selector": values
                | st.fixed_dictionaries({}, optional={"matchLabels": values | labels}),
                "mtls": mtls,
                "portLevelMtls": values | st.dictionaries(scalars, mtls, max_size=3),
            },
        ),
    },
)


@given(values | almost, st.booleans())
def test_any_decoded_value_either_parses_or_yields_problems(
    document: object,
    stored: bool,  # noqa: FBT001 - hypothesis passes arguments by name
) -> None:
    policy, problems = parse_peer_authentication(document, stored=stored)
    refused = any(problem.severity is Severity.ERROR for problem in problems)
    assert refused is (policy is None)
    for problem in problems:
        text = str(problem)
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < 1000
    if policy is not None:
        PolicyIndex([policy], ROOT).effective(policy.namespace, policy.selector, policy.port_modes)
        msgspec.json.encode(policy)
