from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from troth.errors import Location, Problem, Severity
from troth.manifests.amend import merge_last_good
from troth.manifests.collect import Manifests, collect
from troth.manifests.yaml import read_documents
from troth.mesh.model import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[..., Manifests]

SYNTAX_ERROR = "a: ["


def config(name: str = "a", value: str = "old", namespace: str = "ns") -> str:
    return (
        "{apiVersion: v1, kind: ConfigMap, "
        f"metadata: {{name: {name}, namespace: {namespace}}}, data: {{v: {value}}}}}\n"
    )


BAD = config(value="7")


def in_force(manifests: Manifests) -> dict[str, str]:
    return {key: each.data["v"] for key, each in manifests.config_maps.items()}


def kept(manifests: Manifests) -> list[str]:
    return [each.subject for each in manifests.problems if each.found.startswith("was kept")]


def test_without_errors_the_new_set_is_in_force(read: Read) -> None:
    current = read(a=config(value="new"))
    assert merge_last_good(read(a=config() + "---\n" + config("gone")), current) == current


def test_a_refused_object_stays_as_it_was(read: Read) -> None:
    merged = merge_last_good(read(a=config()), read(a=f"---\n{BAD}"))
    assert in_force(merged) == {"ns/a": "old"}
    error, note = merged.problems
    assert (error.severity, error.path) == (Severity.ERROR, "data[v]")
    assert note == Problem(
        subject="ConfigMap ns/a",
        path="",
        found="was kept as it was, because its new version is refused",
        wanted="correct the errors to change or remove it",
        severity=Severity.WARNING,
        location=Location("a.yaml", 1),
    )


def test_an_object_that_was_never_good_is_not_there(read: Read) -> None:
    merged = merge_last_good(read(a=BAD), read(a=BAD))
    assert in_force(merged) == {}
    assert kept(merged) == []


def test_its_neighbours_change_while_an_object_is_refused(read: Read) -> None:
    before = read(a=config() + "---\n" + config("b") + "---\n" + config("c"))
    merged = merge_last_good(before, read(a=BAD + "---\n" + config("b", "new")))
    assert in_force(merged) == {"ns/a": "old", "ns/b": "new"}
    assert kept(merged) == ["ConfigMap ns/a"]


def test_objects_missing_from_a_file_with_a_syntax_error_stay(read: Read) -> None:
    before = read(a=config() + "---\n" + config("b"), c=config("c") + "---\n" + config("d"))
    current = read(a=SYNTAX_ERROR + "\n---\n" + config("b", "new"), c=config("c"))
    merged = merge_last_good(before, current)
    assert in_force(merged) == {"ns/a": "old", "ns/b": "new", "ns/c": "old"}
    assert kept(merged) == ["ConfigMap ns/a"]


def test_a_document_that_lost_its_name_keeps_the_objects_of_its_file(read: Read) -> None:
    merged = merge_last_good(read(a=config()), read(a="{apiVersion: v1, kind: ConfigMap}"))
    assert in_force(merged) == {"ns/a": "old"}


def test_a_misspelt_kind_keeps_the_objects_of_its_file(read: Read) -> None:
    current = read(a=config().replace("ConfigMap", "ConfigMpa"))
    assert in_force(merge_last_good(read(a=config()), current)) == {"ns/a": "old"}


def test_a_directory_that_cannot_be_searched_keeps_what_was_below_it(read: Read) -> None:
    before = read(**{"dir/sub/a": config(), "dirt/b": config("b")})
    unread = Problem(subject="file", path="", found="", wanted="", location=Location("dir", 1))
    merged = merge_last_good(before, collect([], [unread]))
    assert in_force(merged) == {"ns/a": "old"}


def test_what_was_kept_goes_once_its_file_is_whole_again(read: Read) -> None:
    broken = merge_last_good(read(a=config()), read(a=SYNTAX_ERROR))
    still = merge_last_good(broken, read(a=SYNTAX_ERROR))
    assert in_force(still) == {"ns/a": "old"}
    assert kept(still) == ["ConfigMap ns/a"]
    assert merge_last_good(still, Manifests()) == Manifests()
    mended = merge_last_good(still, read(a=config(value="new")))
    assert in_force(mended) == {"ns/a": "new"}
    assert mended.problems == ()


def test_an_object_may_move_to_another_file(read: Read) -> None:
    merged = merge_last_good(read(a=config()), read(b=config(value="new")))
    assert in_force(merged) == {"ns/a": "new"}


def test_a_second_definition_does_not_take_over_while_the_first_file_is_broken(read: Read) -> None:
    second = config(value="second")
    before = read(a=config(), b=second)
    merged = merge_last_good(before, read(a=SYNTAX_ERROR, b=second))
    assert in_force(merged) == {"ns/a": "old"}
    assert merged.origins["ConfigMap ns/a"].file == "a.yaml"
    assert in_force(merge_last_good(merged, read(b=second))) == {"ns/a": "second"}


def test_an_object_that_appears_in_a_broken_file_is_in_force(read: Read) -> None:
    merged = merge_last_good(read(a=config()), read(a=config("new") + "---\n" + SYNTAX_ERROR))
    assert in_force(merged) == {"ns/a": "old", "ns/new": "old"}


@pytest.mark.parametrize("current", [SYNTAX_ERROR, ""], ids=["kept", "gone"])
def test_the_labels_of_a_namespace_are_not_lost_to_an_implied_one(current: str, read: Read) -> None:
    labels = {"troth.dev/mesh": "enabled"}
    before = read(
        a="{apiVersion: v1, kind: Namespace, "
        "metadata: {name: ns, labels: {troth.dev/mesh: enabled}}}",
        b=config(),
    )
    merged = merge_last_good(before, read(a=current, b=config()))
    assert merged.namespaces == {"ns": Namespace(name="ns", labels=labels if current else {})}


def test_the_namespace_of_a_kept_object_stays_implied(read: Read) -> None:
    merged = merge_last_good(read(a=config()), read(a=SYNTAX_ERROR))
    assert merged.namespaces == {"ns": Namespace(name="ns")}


def test_implied_namespaces_go_with_their_objects(read: Read) -> None:
    before = read(a=config(), b=config("b", namespace="other"))
    merged = merge_last_good(before, read(a=SYNTAX_ERROR))
    assert list(merged.namespaces) == ["ns"]


def test_a_stateful_set_is_kept_too(read: Read) -> None:
    text = (
        "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: x}, spec: {selector: "
        "{matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: "
        "{containers: [{name: c}]}}}}"
    )
    before = read(a=text)
    merged = merge_last_good(before, read(a=text.replace("a: b", "a: 1", 1)))
    assert merged.workloads == before.workloads != {}


DOCUMENTS = st.lists(
    st.builds(config, st.sampled_from("abc"), st.sampled_from(["old", "new", "7"]))
    | st.just(SYNTAX_ERROR),
    max_size=3,
)
SETS = st.dictionaries(st.sampled_from(["f", "g"]), DOCUMENTS, max_size=2)


def collected(files: dict[str, list[str]]) -> Manifests:
    documents, problems = [], []
    for name in sorted(files):
        good, bad = read_documents("\n---\n".join(files[name]), name)
        documents += good
        problems += bad
    return collect(documents, problems)


@given(st.lists(SETS, min_size=1, max_size=5))
def test_whatever_happens_only_good_objects_are_in_force(sets: list[dict[str, list[str]]]) -> None:
    manifests = collected(sets[0])
    for files in sets[1:]:
        current = collected(files)
        before = in_force(manifests)
        manifests = merge_last_good(manifests, current)
        after = in_force(manifests)
        # Nothing comes from nowhere, and nothing bad is ever in force.
        now = in_force(current)
        assert set(after.values()) <= {"old", "new"}
        assert all(value in (before.get(key), now.get(key)) for key, value in after.items())
        # What is good now is there; what was good only goes when no error is in the way.
        assert set(now) <= set(after)
        if current.unread == frozenset() and current.refused == frozenset():
            assert manifests == current
        assert {f"ConfigMap {key}" for key in after} == set(manifests.origins)


@given(SETS, SETS)
@example(
    {"f": [config("a", "old")], "g": [config("b", "old")]},
    {"f": [config("b", "old"), "a: ["], "g": ["a: ["]},
)
def test_reading_the_same_again_changes_nothing(
    first: dict[str, list[str]], second: dict[str, list[str]]
) -> None:
    current = collected(second)
    once = merge_last_good(collected(first), current)
    twice = merge_last_good(once, current)
    assert msgspec.structs.asdict(twice) == msgspec.structs.asdict(once)
