from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.manifests.compose import DEEPEST_NESTING, MOST_ALIASED_VALUES
from troth.manifests.yaml import Document, read_documents

SMILE = "\N{GRINNING FACE}"


def values(data: bytes | str) -> list[object]:
    documents, problems = read_documents(data, "f.yaml")
    assert problems == []
    return [document.value for document in documents]


def bomb(levels: int) -> str:
    first = "l0: &l0 [" + "x, " * 10 + "]\n"
    others = (f"l{n}: &l{n} [" + f"*l{n - 1}, " * 10 + "]\n" for n in range(1, levels))
    return first + "".join(others)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param("# only\n# comments\n", [], id="only-comments"),
        pytest.param("---\n---\n# x\n---\n", [], id="empty-documents"),
        pytest.param("~\n---\nnull\n", [], id="null-documents"),
        pytest.param("a: 1\n---\n", [{"a": 1}], id="marker-at-the-end"),
        pytest.param("a: 1\n---", [{"a": 1}], id="marker-at-the-end-without-line-end"),
        pytest.param("a: 1\n--- # next\nb: 2", [{"a": 1}, {"b": 2}], id="comment-behind-marker"),
        pytest.param("--- {a: 1}\n--- {b: 2}", [{"a": 1}, {"b": 2}], id="content-behind-marker"),
        pytest.param("a: 1\n...\n# x\n---\nb: 2\n...\n", [{"a": 1}, {"b": 2}], id="end-markers"),
        pytest.param("%YAML 1.1\n---\na: 1\n", [{"a": 1}], id="directive"),
        pytest.param("%YAML 1.1\n# x\n---\na: 1", [{"a": 1}], id="directive-and-comment"),
        pytest.param("a: 1\r\n---\r\nb: |\r\n  x\r\n", [{"a": 1}, {"b": "x\n"}], id="windows"),
        pytest.param("a: 1\r---\rb: 2\r", [{"a": 1}, {"b": 2}], id="old-mac-line-ends"),
        pytest.param("\ufeffa: 1", [{"a": 1}], id="byte-order-mark"),
        pytest.param("a: 1\n\ufeff---\nb: 2", [{"a": 1}, {"b": 2}], id="concatenated-with-marks"),
        pytest.param("a: ü".encode("utf-16"), [{"a": "ü"}], id="utf-16"),
        pytest.param('{"a":\t1,\n\t"b": [null, 1e3]}', [{"a": 1, "b": [None, 1000.0]}], id="json"),
        pytest.param(json.dumps({"a": SMILE}), [{"a": SMILE}], id="json-surrogate-pair"),
        pytest.param(
            json.dumps({"a": "\\ud83d\\ude00"}), [{"a": "\\ud83d\\ude00"}], id="json-backslashes"
        ),
        pytest.param(
            'a: |\n  {"b": "\\ud83d\\ude00"}\n',
            [{"a": '{"b": "\\ud83d\\ude00"}\n'}],
            id="json-in-a-block-is-left-alone",
        ),
        pytest.param("a: &x {b: 1}\nc: *x", [{"a": {"b": 1}, "c": {"b": 1}}], id="alias"),
        pytest.param("a: &x 7\nc: [*x, *x]", [{"a": 7, "c": [7, 7]}], id="alias-of-a-scalar"),
        pytest.param(
            "a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}",
            [{"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}],
            id="merge-key-loses-to-the-mapping",
        ),
        pytest.param(
            "a: &x {b: 1}\nd: {<<: [*x, {b: 2, c: 3}]}",
            [{"a": {"b": 1}, "d": {"b": 1, "c": 3}}],
            id="merge-of-several-the-first-wins",
        ),
        pytest.param('{"<<": 1}', [{"<<": 1}], id="quoted-merge-key-is-a-key"),
        pytest.param(
            "1: a\n0x10: b\ntrue: c\n1.5: d\n2.0: e",
            [{"1": "a", "16": "b", "true": "c", "1.5": "d", "2": "e"}],
            id="keys-become-text",
        ),
        pytest.param("a: |\n  ---\n  b\n", [{"a": "---\nb\n"}], id="indented-marker-is-text"),
        pytest.param(
            "a: !!str 1\nb: !!float 2\nc: ! 3", [{"a": "1", "b": 2.0, "c": "3"}], id="tags"
        ),
    ],
)
def test_what_yaml_allows_is_read(data: bytes | str, expected: list[object]) -> None:
    assert values(data) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "a: 1\nb:\n  c: 1\n  c: 2\n",
            'f.yaml:4: YAML document 1: the key "c" is given twice, first on line 3; '
            "keep one of them",
            id="duplicate-key",
        ),
        pytest.param(
            "1: a\n'1': b\n",
            'f.yaml:2: YAML document 1: the key "1" is given twice, first on line 1; '
            "keep one of them",
            id="keys-that-are-equal-as-text",
        ),
        pytest.param(
            "a:\n\tb: 1\n",
            "f.yaml:2: YAML document 1: isn't YAML: while scanning for the next token, found "
            "character that cannot start any token; indent with spaces; YAML allows no tab there",
            id="tab",
        ),
        pytest.param(
            "a: b: c\n",
            "f.yaml:1: YAML document 1: isn't YAML: mapping values are not allowed in this "
            "context; check the indentation, and quote a value that contains ': '",
            id="two-colons",
        ),
        pytest.param(
            b"a: 1\nb: \xff\n",
            "f.yaml:2: YAML document 1: is not UTF-8 text; save the file as UTF-8",
            id="not-utf-8",
        ),
        pytest.param(
            "a: '\ud800'\n",
            "f.yaml:1: YAML document 1: is not UTF-8 text; save the file as UTF-8",
            id="lone-surrogate",
        ),
        pytest.param(
            "a: 1\nb: \x00\n",
            "f.yaml:2: YAML document 1: isn't YAML: control characters are not allowed; "
            "remove the control character, or escape it in quotes",
            id="null-byte",
        ),
        pytest.param(
            "a: &a\n  b: *a\n",
            "f.yaml:2: YAML document 1: the anchor &a contains itself; write the value out",
            id="recursion",
        ),
        pytest.param(
            "a: *b\n",
            "f.yaml:1: YAML document 1: the alias *b has no anchor; "
            "set &b before it, or quote the text if no alias was meant",
            id="unknown-alias",
        ),
        pytest.param(
            bomb(9),
            "f.yaml:5: YAML document 1: aliases multiply the document by more than "
            f"{MOST_ALIASED_VALUES} values; write the values out",
            id="billion-laughs",
        ),
        pytest.param(
            "[" * 100_000,
            f"f.yaml:1: YAML document 1: values are nested more than {DEEPEST_NESTING} deep; "
            "no Kubernetes object needs that",
            id="deep-nesting",
        ),
        pytest.param(
            "a: !!python/object/apply:os.system [id]\n",
            'f.yaml:1: YAML document 1: the tag "!!python/object/apply:os.system" is unknown; '
            "Kubernetes manifests need no tags",
            id="python-tag",
        ),
        pytest.param(
            "a: !!binary aGk=\n",
            'f.yaml:1: YAML document 1: the tag "!!binary" is unknown; '
            "Kubernetes manifests need no tags",
            id="binary-tag",
        ),
        pytest.param(
            "a: !!int s3cret\n",
            "f.yaml:1: YAML document 1: a value tagged !!int is none; "
            "correct the value, or the tag",
            id="false-tag",
        ),
        pytest.param(
            "? [a]\n: b\n",
            "f.yaml:1: YAML document 1: a mapping's key is itself a collection; "
            "use text as the key",
            id="collection-as-key",
        ),
        pytest.param(
            "a: &x [b]\n*x : c\n",
            "f.yaml:2: YAML document 1: a mapping's key is a list; use text as the key",
            id="aliased-collection-as-key",
        ),
        pytest.param(
            "~: a\n",
            "f.yaml:1: YAML document 1: a mapping's key is null; use text as the key",
            id="null-as-key",
        ),
        pytest.param(
            "a:\n  <<: 3\n",
            "f.yaml:2: YAML document 1: << merges the number 3; "
            "merge a mapping, or a list of mappings",
            id="merge-of-a-scalar",
        ),
        pytest.param(
            "a: 1\u2028---\u2028b: 2\n",
            "f.yaml:2: YAML document 1: a second document begins here; put '---' on its own line",
            id="marker-behind-a-line-separator",
        ),
    ],
)
def test_what_is_refused_is_named_with_its_line(text: bytes | str, message: str) -> None:
    documents, problems = read_documents(text, "f.yaml")
    assert documents == []
    assert list(map(str, problems)) == [message]


def test_all_duplicate_keys_are_named_at_once() -> None:
    _, problems = read_documents("a: 1\na: 2\nb: 1\nb: 2\nb: 3\n", "f.yaml")
    assert [problem.location.line for problem in problems if problem.location] == [2, 4, 5]


@pytest.mark.parametrize(
    "broken",
    ["b: [", "b: 'x", "b: {", "\tb", "b: *x", "b: 1\nb: 2", "!!x y", "- a\nb", "@", "? : ?:\n -"],
)
def test_a_broken_document_costs_only_itself(broken: str) -> None:
    documents, problems = read_documents(f"a: 1\n---\n{broken}\n---\nc: 3\n", "f.yaml")
    assert [document.value for document in documents] == [{"a": 1}, {"c": 3}]
    assert problems
    assert {problem.subject for problem in problems} == {"YAML document 2"}
    assert all(p.location and 3 <= p.location.line <= 3 + broken.count("\n") for p in problems)


def test_a_long_stream_is_read_whole() -> None:
    stream = "".join(f"---\nkind: ConfigMap\ndata:\n  number: '{n}'\n" for n in range(10_000))
    documents, problems = read_documents(stream, "f.yaml")
    assert problems == []
    assert len(documents) == 10_000
    assert documents[-1].value == {"kind": "ConfigMap", "data": {"number": "9999"}}
    assert documents[-1].location.line == 39_998


def test_a_document_begins_at_its_first_content() -> None:
    (document,) = read_documents("\n# about\n---\n\n# more\na: 1\n", "f.yaml")[0]
    assert str(document.location) == "f.yaml:6"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        pytest.param("", 3, id="the-object"),
        pytest.param("spec", 5, id="a-field"),
        pytest.param("spec.list[1].b", 8, id="in-a-list"),
        pytest.param("metadata.labels[app.kubernetes.io/name]", 4, id="a-key-with-dots"),
        pytest.param('spec["odd key"]', 9, id="a-quoted-key"),
        pytest.param("spec.list[1].c.d", 7, id="missing-below-the-nearest"),
        pytest.param("spec.list[7]", 6, id="beyond-the-list"),
        pytest.param("nothing", 3, id="missing-at-the-top"),
    ],
)
def test_the_line_of_a_field_is_found(path: str, line: int) -> None:
    text = (
        "a: 1\n---\n"
        "kind: X\n"
        "metadata: {labels: {app.kubernetes.io/name: x}}\n"
        "spec:\n"
        "  list: [1,\n"
        "    {a: 1,\n"
        "     b: 2}]\n"
        "  odd key: 1\n"
    )
    document = read_documents(text, "f.yaml")[0][1]
    assert document.place(path).line == line


@pytest.mark.parametrize(
    ("path", "line"),
    [("c.x", 2), ("c.x.p", 3), ("l[1]", 7), ("l[1].p", 3), ("m.p", 8), ("m.q", 10), ("o.p", 11)],
)
def test_lines_are_found_through_aliases_and_not_through_merges(path: str, line: int) -> None:
    text = "c:\n  x: &a\n    p: 1\n    q: 2\nl:\n- 1\n- *a\nm:\n  <<: *a\n  q: 3\no: {<<: *a}\n"
    (document,) = read_documents(text, "f.yaml")[0]
    assert document.place(path).line == line


def test_a_document_does_not_show_its_value() -> None:
    (document,) = read_documents("kind: Secret\ndata: {a: aGk=}", "f.yaml")[0]
    assert repr(document) == "Document(f.yaml:1)"


@given(st.binary())
def test_any_bytes_become_documents_or_problems(data: bytes) -> None:
    documents, problems = read_documents(data, "f.yaml")
    assert all(isinstance(document, Document) for document in documents)
    assert all(problem.location for problem in problems)


@given(st.text(alphabet="ab:-[]{}&*!|>?'\"\\%@,# \t\r\n.~0<\x00\u2028\ufeff", max_size=60))
def test_any_yaml_like_text_becomes_documents_or_problems(text: str) -> None:
    documents, problems = read_documents(text, "f.yaml")
    lines = text.replace("\r\n", "\n").count("\n") + text.count("\r") + 2 + text.count("\u2028")
    for problem in problems:
        assert problem.location
        assert 1 <= problem.location.line <= lines
    for document in documents:
        json.dumps(document.value)
        assert document.place("a.b[0]").line >= 1


KEYS = st.text(max_size=50)  # YAML allows no more than 1024 characters, escapes counted

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(KEYS, JSON, min_size=1, max_size=4))
def test_json_means_what_it_means_as_json(value: dict[str, object]) -> None:
    lone = any(
        "\ud800" <= character <= "\udfff" for character in json.dumps(value, ensure_ascii=False)
    )
    documents, problems = read_documents(json.dumps(value), "f.json")
    if lone:
        assert problems
    else:
        assert problems == []
        assert [document.value for document in documents] == [value]


@given(st.lists(st.dictionaries(KEYS, JSON, min_size=1, max_size=3), max_size=3))
def test_a_stream_is_read_as_its_documents_one_by_one(parts: list[dict[str, object]]) -> None:
    texts = [json.dumps(part) for part in parts]
    together = read_documents("\n---\n".join(texts), "f.yaml")[0]
    alone = [document for text in texts for document in read_documents(text, "f.yaml")[0]]
    assert [each.value for each in together] == [each.value for each in alone]


@given(
    st.lists(st.dictionaries(KEYS, JSON, min_size=1, max_size=3), min_size=1, max_size=3),
    st.sampled_from(["", "\n", " \n\n", "\n---\n"]),
)
def test_json_objects_may_follow_each_other_as_kubectl_reads_them(
    parts: list[dict[str, object]], between: str
) -> None:
    texts = [json.dumps(part) for part in parts]
    together = read_documents(between.join(texts), "f.json")[0]
    alone = [document for text in texts for document in read_documents(text, "f.json")[0]]
    assert [each.value for each in together] == [each.value for each in alone]


def test_json_objects_that_follow_each_other_know_their_lines() -> None:
    documents, problems = read_documents('{"a": 1}{"b":\n2}\n\n{"c": 3, "c": 4}\n{"d": 1}\n', "f")
    assert [(each.value, each.location.line) for each in documents] == [
        ({"a": 1}, 1),
        ({"b": 2}, 1),
        ({"d": 1}, 5),
    ]
    (problem,) = problems
    assert str(problem) == (
        'f:4: YAML document 3: the key "c" is given twice, first on line 4; keep one of them'
    )


@pytest.mark.parametrize(
    "text",
    ['# a comment\n{"a": 1}\n{"b": 1}\n', '---\n{"a": 1}\n{"b": 1}\n', "{a: 1}\n{b: 1}\n"],
)
def test_objects_that_kubectl_would_leave_out_without_a_word_are_refused(text: str) -> None:
    documents, (problem,) = read_documents(text, "f.yaml")
    assert documents == []
    assert problem.wanted == "put '---' between two documents"


@pytest.mark.parametrize("text", ["{a: '}{'}", '{a: "}{"}', "{a: 1} # }{", '{"a": {}}\n# {"b": 1}'])
def test_what_only_looks_like_another_object_is_none(text: str) -> None:
    documents, problems = read_documents(text, "f.yaml")
    assert (len(documents), problems) == (1, [])
