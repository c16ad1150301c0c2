"""The steps and the policy files they apply, without a mesh."""

from __future__ import annotations

import pytest

from troth.demo.scenario import STAGES, Happened, ScenarioStep, examples
from troth.manifests.files import load
from troth.policy.index import PolicyIndex
from troth.policy.model import Mode

_BY_STAGE = pytest.mark.parametrize("stage", STAGES, ids=[stage.title for stage in STAGES])
_MODES = {
    Happened.TUNNEL: {Mode.STRICT, Mode.PERMISSIVE},
    Happened.PLAINTEXT: {Mode.PERMISSIVE, Mode.DISABLE},
    Happened.REFUSED: {Mode.STRICT},
}


def _index(stage: ScenarioStep) -> PolicyIndex:
    paths = [examples() / "policies" / stage.policy] if stage.policy else []
    manifests = load(paths)
    assert not manifests.problems
    return PolicyIndex(manifests.policies.values(), root_namespace="istio-system")


@_BY_STAGE
def test_a_step_expects_what_its_policy_means(stage: ScenarioStep) -> None:
    index = _index(stage)
    ordinary = [tried for tried in stage.tries if tried.credentials is None]
    for tried in ordinary:
        namespace, _, app = tried.destination.partition("/")
        decision = index.decide(namespace, {"app": app}, [tried.port])
        assert decision.mode_of(tried.port) in _MODES[tried.expected]
        assert decision.decider_of(tried.port).policy == tried.policy


def test_every_example_policy_is_shown_and_no_example_mesh_begins_with_one() -> None:
    files = {path.name for path in (examples() / "policies").iterdir()}
    assert files == {stage.policy for stage in STAGES} - {""}
    manifests = load([examples() / "finance"])
    assert not manifests.policies
    assert not manifests.problems


def test_all_that_can_come_of_a_try_is_shown_with_its_opposite() -> None:
    def outcomes(**like: object) -> set[Happened]:
        tries = (tried for stage in STAGES for tried in stage.tries)
        return {t.expected for t in tries if all(getattr(t, k) == v for k, v in like.items())}

    cron: dict[str, object] = {"source": "legacy/cron", "credentials": None}
    assert outcomes(**cron) == {Happened.PLAINTEXT, Happened.REFUSED}
    web: dict[str, object] = {"source": "finance/web", "credentials": None}
    assert outcomes(**web) == {Happened.TUNNEL, Happened.PLAINTEXT}


def test_an_impostor_must_be_refused_by_an_alert_of_the_server() -> None:
    impostors = [t for stage in STAGES for t in stage.tries if t.credentials is not None]
    assert len({tried.alert for tried in impostors}) == len(impostors) == 3
    assert all(tried.alert for tried in impostors)
