from __future__ import annotations

import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.errors import InputError
from troth.identity.spiffe import SpiffeId, TrustDomain

_SEGMENT_HINT = "use only a-z, A-Z, 0-9, '.', '-' and '_' (no percent-encoding, query or fragment)"
_DOMAIN_HINT = "use only a-z, 0-9, '.', '-' and '_' (no user, port, query or fragment)"

HOSTILE_IDS = {
    "empty": ("", "is not a spiffe URI; begin it with spiffe://"),
    "another-scheme": ("https://td/a", "is not a spiffe URI; begin it with spiffe://"),
    "scheme-in-capitals": ("SPIFFE://td/a", "is not a spiffe URI; begin it with spiffe://"),
    "blank-in-front": (" spiffe://td/a", "is not a spiffe URI; begin it with spiffe://"),
    "no-trust-domain": (
        "spiffe:///a",
        "the trust domain is empty; name one, such as cluster.local",
    ),
    "user": ("spiffe://me@td/a", f"the trust domain contains '@'; {_DOMAIN_HINT}"),
    "port": ("spiffe://td:80/a", f"the trust domain contains ':'; {_DOMAIN_HINT}"),
    "capitals": ("spiffe://TD/a", f"the trust domain contains 'T', 'D'; {_DOMAIN_HINT}"),
    "encoded-domain": ("spiffe://t%64/a", f"the trust domain contains '%'; {_DOMAIN_HINT}"),
    "look-alike": ("spiffe://t\u0501/a", f"the trust domain contains '\\u0501'; {_DOMAIN_HINT}"),
    "query-at-domain": ("spiffe://td?a", f"the trust domain contains '?'; {_DOMAIN_HINT}"),
    "long-trust-domain": (
        f"spiffe://{'t' * 256}/a",
        "the trust domain is longer than 255 bytes; use at most 255",
    ),
    "trailing-slash": ("spiffe://td/a/", "the path ends with a slash; leave the last slash out"),
    "only-a-slash": ("spiffe://td/", "the path ends with a slash; leave the last slash out"),
    "empty-segment": ("spiffe://td/a//b", 'path segment "" is empty; put a name there'),
    "dot": ("spiffe://td/./a", 'path segment "." is relative; write the path in full'),
    "dot-dot": ("spiffe://td/a/../b", 'path segment ".." is relative; write the path in full'),
    "encoded-slash": (
        "spiffe://td/a%2Fb",
        f"path segment \"a%2Fb\" contains '%'; {_SEGMENT_HINT}",
    ),
    "query": ("spiffe://td/a?b", f"path segment \"a?b\" contains '?'; {_SEGMENT_HINT}"),
    "fragment": ("spiffe://td/a#b", f"path segment \"a#b\" contains '#'; {_SEGMENT_HINT}"),
    "line-end": ("spiffe://td/a\n", f"path segment \"a\\n\" contains '\\n'; {_SEGMENT_HINT}"),
    "zero-byte": (
        "spiffe://td/a\0b",
        f"path segment \"a\\u0000b\" contains '\\x00'; {_SEGMENT_HINT}",
    ),
    "umlaut": ("spiffe://td/\u00e4", f"path segment \"\\u00e4\" contains '\\xe4'; {_SEGMENT_HINT}"),
    "too-long": (
        f"spiffe://td/{'a' * 2037}",
        "is longer than 2048 bytes; use at most 2048",
    ),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE_IDS.values(), ids=HOSTILE_IDS)
def test_a_hostile_spiffe_id_is_refused_with_its_reason(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        SpiffeId.parse(text)
    (problem,) = caught.value.problems
    assert f"{problem.found}; {problem.wanted}" == message


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://td",
        "spiffe://cluster.local/ns/finance/sa/web",
        "spiffe://10.0.0.1/a",
        "spiffe://a_b-c.d/A.b/_/-/...",
        f"spiffe://{'t' * 255}/a",
        f"spiffe://td/{'a' * 2036}",
    ],
    ids=["no-path", "service-account", "address", "all-characters", "longest-domain", "longest"],
)
def test_a_valid_spiffe_id_is_told_as_it_was_written(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


def test_every_flaw_of_a_spiffe_id_is_listed_at_once() -> None:
    with pytest.raises(InputError) as caught:
        SpiffeId.parse("spiffe://A/../b%/")
    assert [problem.found for problem in caught.value.problems] == [
        "the trust domain contains 'A'",
        "the path ends with a slash",
        'path segment ".." is relative',
        "path segment \"b%\" contains '%'",
    ]


def test_a_message_shows_only_the_beginning_of_a_huge_input() -> None:
    with pytest.raises(InputError) as caught:
        SpiffeId.parse("\x1b[2J" * 100_000)
    assert len(str(caught.value)) < 500
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "Cluster.local", "td:80", "spiffe://td", "td/", "a b", "t" * 256]
)
def test_a_name_that_is_no_trust_domain_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="trust domain"):
        TrustDomain.parse(text)


def test_an_invalid_value_cannot_be_constructed_around_the_parser() -> None:
    with pytest.raises(InputError):
        TrustDomain("Not/Valid")
    with pytest.raises(InputError):
        SpiffeId(TrustDomain("td"), "no-slash")


def test_a_service_account_is_named_as_istio_names_it() -> None:
    spiffe_id = SpiffeId.for_service_account(TrustDomain("cluster.local"), "finance", "web.v1")
    assert str(spiffe_id) == "spiffe://cluster.local/ns/finance/sa/web.v1"
    assert (spiffe_id.namespace, spiffe_id.service_account) == ("finance", "web.v1")


@pytest.mark.parametrize(
    ("namespace", "name"),
    [("a/sa/b", "c"), ("a", "b/c"), ("", "b"), ("a", ""), ("..", "b"), ("a", "b?")],
)
def test_a_name_cannot_smuggle_in_a_path(namespace: str, name: str) -> None:
    with pytest.raises(InputError):
        SpiffeId.for_service_account(TrustDomain("td"), namespace, name)


@pytest.mark.parametrize(
    "path", ["", "/ns/a", "/ns/a/sa", "/ns/a/sa/b/c", "/x/ns/a/sa/b", "/NS/a/sa/b", "/ns/a/b/sa"]
)
def test_another_path_names_no_service_account(path: str) -> None:
    spiffe_id = SpiffeId(TrustDomain("td"), path)
    assert spiffe_id.namespace is None
    assert spiffe_id.service_account is None


_segments = st.text(string.ascii_letters + string.digits + ".-_", min_size=1, max_size=12).filter(
    lambda segment: segment not in {".", ".."}
)


@given(
    domain=st.text(string.ascii_lowercase + string.digits + ".-_", min_size=1, max_size=255),
    segments=st.lists(_segments, max_size=8),
)
def test_every_id_survives_text_and_json(domain: str, segments: list[str]) -> None:
    spiffe_id = SpiffeId(TrustDomain(domain), "".join(f"/{segment}" for segment in segments))
    assert SpiffeId.parse(str(spiffe_id)) == spiffe_id
    assert hash(SpiffeId.parse(str(spiffe_id))) == hash(spiffe_id)
    assert msgspec.json.decode(msgspec.json.encode(spiffe_id), type=SpiffeId) == spiffe_id


@given(st.text())
def test_any_text_is_an_id_with_one_spelling_or_refused(text: str) -> None:
    for candidate in (text, f"spiffe://{text}", f"spiffe://td/{text}"):
        try:
            parsed = SpiffeId.parse(candidate)
        except InputError:
            continue
        assert str(parsed) == candidate
