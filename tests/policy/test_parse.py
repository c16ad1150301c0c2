"""Reading a PeerAuthentication: what is understood, and the whole message for what is refused."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from troth.errors import Location, Severity
from troth.policy.index import PolicyIndex
from troth.policy.model import Mode, PeerAuthentication
from troth.policy.parse import parse_peer_authentication


def manifest(spec: object = None, **metadata: object) -> dict[str, Any]:
    """A document that is right but for what the arguments say."""
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "web", "namespace": "finance", **metadata},
        "spec": spec,
    }


SELECTOR = {"matchLabels": {"app": "web"}}


def test_every_field_is_read() -> None:
    document = manifest(
        {
            "selector": {"matchLabels": {"app": "web", "example.com/tier": ""}},
            "mtls": {"mode": "STRICT"},
            "portLevelMtls": {8080: {"mode": "DISABLE"}, "9090": {"mode": "UNSET"}},
        },
        creationTimestamp="2026-01-31T13:00:00+01:00",
    )
    location = Location("web.yaml", 3)
    assert parse_peer_authentication(document, location=location) == (
        PeerAuthentication(
            namespace="finance",
            name="web",
            selector={"app": "web", "example.com/tier": ""},
            mode=Mode.STRICT,
            port_modes={8080: Mode.DISABLE, 9090: Mode.UNSET},
            created=datetime(2026, 1, 31, 12, tzinfo=UTC),
            api_version="security.istio.io/v1",
            location=location,
        ),
        (),
    )


# What a cluster returns carries more metadata than anybody writes.
STORED_METADATA = {
    "annotations": {"a": "b"},
    "labels": {},
    "managedFields": [{}],
    "generation": 3,
    "resourceVersion": "17",
    "uid": "x",
}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (manifest(), {}),
        (manifest({}), {}),
        (manifest({"mtls": None, "selector": None, "portLevelMtls": None}), {}),
        (manifest({"mtls": {}}), {}),
        (manifest({"mtls": {"mode": None}}), {}),
        (manifest({"mtls": {"mode": "UNSET"}}), {}),
        (manifest({"mtls": {"mode": "DISABLE"}}), {"mode": Mode.DISABLE}),
        (manifest({"mtls": {"mode": "PERMISSIVE"}}), {"mode": Mode.PERMISSIVE}),
        (manifest({"selector": SELECTOR}), {"selector": {"app": "web"}}),
        (
            manifest({"selector": SELECTOR, "portLevelMtls": {1: None, "65535": {}}}),
            {"selector": {"app": "web"}, "port_modes": {1: Mode.UNSET, 65535: Mode.UNSET}},
        ),
        (
            manifest({"selector": SELECTOR, "portLevelMtls": {"08080": {"mode": "STRICT"}}}),
            {"selector": {"app": "web"}, "port_modes": {8080: Mode.STRICT}},
        ),
        (manifest(namespace=None), {"namespace": "default"}),
        (manifest(namespace=""), {"namespace": "default"}),
        (manifest(name="a.b-c.9"), {"name": "a.b-c.9"}),
        (manifest() | {"status": {"anything": 1}}, {}),
        (manifest(**STORED_METADATA), {}),
        (
            manifest() | {"apiVersion": "security.istio.io/v1beta1"},
            {"api_version": "security.istio.io/v1beta1"},
        ),
        (manifest(creationTimestamp=None), {}),
        (
            manifest(creationTimestamp="2026-01-31T12:00:00Z"),
            {"created": datetime(2026, 1, 31, 12, tzinfo=UTC)},
        ),
        (
            manifest(creationTimestamp="2026-01-31T12:00:00.250Z"),
            {"created": datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)},
        ),
        (
            manifest(
                creationTimestamp=datetime(2026, 1, 31, 7, tzinfo=timezone(timedelta(hours=-5)))
            ),
            {"created": datetime(2026, 1, 31, 12, tzinfo=UTC)},
        ),
    ],
    ids=[
        "spec null",
        "spec empty",
        "fields null",
        "mtls empty",
        "mode null",
        "UNSET",
        "DISABLE",
        "PERMISSIVE",
        "selector",
        "first and last port, no mode",
        "port with a leading zero, as Istio's CRD takes it",
        "namespace null",
        "namespace empty",
        "dotted name",
        "status",
        "metadata of a stored object",
        "v1beta1",
        "timestamp null",
        "timestamp",
        "timestamp with fractions",
        "timestamp decoded by YAML",
    ],
)
def test_a_valid_document_is_read_without_a_word(
    document: object, expected: dict[str, Any]
) -> None:
    wanted = {"namespace": "finance", "name": "web", **expected}
    assert parse_peer_authentication(document) == (PeerAuthentication(**wanted), ())


NAME_RULE = (
    "use a-z, 0-9, '-' and '.', each part beginning and ending with a letter or digit "
    "(RFC 1123 subdomain)"
)
NAMESPACE_RULE = (
    "use a-z, 0-9 and '-', beginning and ending with a letter or digit (RFC 1123 label)"
)
LABEL_RULE = "use a-z, A-Z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit"
VALUE_RULE = f"{LABEL_RULE}, or leave it empty"
TIME_RULE = "write a time with its zone, such as 2026-01-31T12:00:00Z (RFC 3339), or leave it out"
MODES = "write STRICT, PERMISSIVE, DISABLE or UNSET"
QUOTE = "put quotes around it to make it a string"
WHOLE = "write a mapping, such as {kind: PeerAuthentication, ...}"
HUGE = 1 << 15_000  # Python refuses to turn this into decimal text
LABELS = "spec.selector.matchLabels"
PORTS = "spec.portLevelMtls"
PORT_RULE = "is not a port; write a number, 1 to 65535"


def labels(value: object) -> dict[str, Any]:
    return manifest({"selector": {"matchLabels": value}})


def ports(value: object) -> dict[str, Any]:
    return manifest({"selector": SELECTOR, "portLevelMtls": value})


def mode(value: object) -> dict[str, Any]:
    return manifest({"mtls": {"mode": value}})


# (document, everything that is said about it after "PeerAuthentication finance/web: ")
REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        manifest() | {"apiVersion": None},
        "apiVersion: is missing; write security.istio.io/v1 or security.istio.io/v1beta1",
    ),
    (
        manifest() | {"apiVersion": "security.istio.io/v1alpha1"},
        (
            'apiVersion: is "security.istio.io/v1alpha1"; '
            "write security.istio.io/v1 or security.istio.io/v1beta1"
        ),
    ),
    (
        manifest() | {"apiVersion": HUGE},
        "apiVersion: is a huge number; write security.istio.io/v1 or security.istio.io/v1beta1",
    ),
    (manifest() | {"kind": None}, "kind: is missing; write PeerAuthentication"),
    (
        manifest() | {"kind": "peerauthentication"},
        'kind: is "peerauthentication"; write PeerAuthentication',
    ),
    (manifest() | {"kind": []}, "kind: is a list; write PeerAuthentication"),
    (manifest(namespace="a.b"), f'metadata.namespace: is "a.b"; {NAMESPACE_RULE}'),
    (manifest(namespace="Finance"), f'metadata.namespace: is "Finance"; {NAMESPACE_RULE}'),
    (
        manifest(namespace="a" * 64),
        f"metadata.namespace: is longer than 63 characters; {NAMESPACE_RULE}",
    ),
    (manifest(namespace=["x"]), "metadata.namespace: is a list; write a string"),
    (manifest(name="Web"), f'metadata.name: is "Web"; {NAME_RULE}'),
    (manifest(name="web\n"), f'metadata.name: is "web\\n"; {NAME_RULE}'),
    (manifest(name="../web"), f'metadata.name: is "../web"; {NAME_RULE}'),
    (manifest(name="a..b"), f'metadata.name: is "a..b"; {NAME_RULE}'),
    (manifest(name="-web"), f'metadata.name: is "-web"; {NAME_RULE}'),
    (manifest(name="wéb"), f'metadata.name: is "w\\u00e9b"; {NAME_RULE}'),
    (manifest(name="\x1b[2J"), f'metadata.name: is "\\u001b[2J"; {NAME_RULE}'),
    (manifest(name="\ud800"), f'metadata.name: is "\\ud800"; {NAME_RULE}'),
    (manifest(name="a" * 254), f"metadata.name: is longer than 253 characters; {NAME_RULE}"),
    (manifest(name=None), "metadata.name: is missing; give the policy a name"),
    (manifest(name=""), "metadata.name: is missing; give the policy a name"),
    (manifest(name=17), f"metadata.name: is the number 17; {QUOTE}"),
    (manifest(name=HUGE), f"metadata.name: is a huge number; {QUOTE}"),
    (manifest(name={"a": 1}), "metadata.name: is a mapping; write a string"),
    (
        manifest(creationTimestamp="2026-01-31"),
        f'metadata.creationTimestamp: is "2026-01-31"; {TIME_RULE}',
    ),
    (
        manifest(creationTimestamp="2026-01-31T12:00:00"),
        f'metadata.creationTimestamp: is "2026-01-31T12:00:00"; {TIME_RULE}',
    ),
    (
        manifest(creationTimestamp="2026-02-30T12:00:00Z"),
        f'metadata.creationTimestamp: is "2026-02-30T12:00:00Z"; {TIME_RULE}',
    ),
    (
        manifest(creationTimestamp="0001-01-01T00:00:00+10:00"),
        f'metadata.creationTimestamp: is "0001-01-01T00:00:00+10:00"; {TIME_RULE}',
    ),
    (
        manifest(creationTimestamp=date(2026, 1, 31)),
        f"metadata.creationTimestamp: is the date 2026-01-31; {TIME_RULE}",
    ),
    (
        manifest(creationTimestamp=datetime(2026, 1, 31, 12)),  # noqa: DTZ001 - as YAML yields it
        f"metadata.creationTimestamp: is the time 2026-01-31T12:00:00; {TIME_RULE}",
    ),
    (
        manifest(creationTimestamp=1769860800),
        f"metadata.creationTimestamp: is the number 1769860800; {TIME_RULE}",
    ),
    (manifest([]), "spec: is a list; write a mapping, such as {mtls: {mode: STRICT}}"),
    (manifest("STRICT"), 'spec: is "STRICT"; write a mapping, such as {mtls: {mode: STRICT}}'),
    (
        manifest(False),
        "spec: is the boolean false; write a mapping, such as {mtls: {mode: STRICT}}",
    ),
    (
        manifest({"mtls": "STRICT"}),
        'spec.mtls: is "STRICT"; write a mapping, such as {mode: STRICT}',
    ),
    (mode("strict"), 'spec.mtls.mode: is "strict"; write STRICT, in exactly these letters'),
    (
        mode("Permissive"),
        'spec.mtls.mode: is "Permissive"; write PERMISSIVE, in exactly these letters',
    ),
    (mode("STRICT "), 'spec.mtls.mode: is "STRICT "; write STRICT, in exactly these letters'),
    (mode("DISABLED"), 'spec.mtls.mode: is "DISABLED"; write DISABLE, in exactly these letters'),
    (mode("ISTIO_MUTUAL"), f'spec.mtls.mode: is "ISTIO_MUTUAL"; {MODES}'),
    (mode(""), f'spec.mtls.mode: is ""; {MODES}'),
    (mode(3), f"spec.mtls.mode: is the number 3; {MODES}"),
    (mode(0), f"spec.mtls.mode: is the number 0; {MODES}"),
    (mode(False), f"spec.mtls.mode: is the boolean false; {MODES}"),
    (mode(["STRICT"]), f"spec.mtls.mode: is a list; {MODES}"),
    (mode(b"STRICT"), f"spec.mtls.mode: is of the type bytes; {MODES}"),
    (mode("x" * 100_000), f'spec.mtls.mode: is "{"x" * 80}"...; {MODES}'),
    (
        manifest({"selector": "app=web"}),
        'spec.selector: is "app=web"; write a mapping, such as {matchLabels: {app: web}}',
    ),
    (labels(["app"]), f"{LABELS}: is a list; write a mapping, such as {{app: web}}"),
    (labels([]), f"{LABELS}: is a list; write a mapping, such as {{app: web}}"),
    (labels(0), f"{LABELS}: is the number 0; write a mapping, such as {{app: web}}"),
    (labels({"": "web"}), f"{LABELS}: has an empty key; write a label's key there"),
    (labels({1: "web"}), f"{LABELS}: has a key that is the number 1; {QUOTE}"),
    (labels({None: "web"}), f"{LABELS}: has a key that is null; write a string"),
    (labels({"app*": "web"}), f'{LABELS}: has a key whose name is "app*"; {LABEL_RULE}'),
    (labels({"x/": "web"}), f'{LABELS}: has a key whose name is ""; {LABEL_RULE}'),
    (labels({"/x": "web"}), f'{LABELS}: has a key whose prefix is ""; {NAME_RULE}'),
    (labels({"a/b/c": "web"}), f'{LABELS}: has a key whose prefix is "a/b"; {NAME_RULE}'),
    (labels({"A/b": "web"}), f'{LABELS}: has a key whose prefix is "A"; {NAME_RULE}'),
    (
        labels({"a" * 64: "web"}),
        f"{LABELS}: has a key whose name is longer than 63 characters; {LABEL_RULE}",
    ),
    (labels({"app": 1}), f"{LABELS}[app]: is the number 1; {QUOTE}"),
    (labels({"app": True}), f"{LABELS}[app]: is the boolean true; {QUOTE}"),
    (labels({"app": 1.5}), f"{LABELS}[app]: is the number 1.5; {QUOTE}"),
    (labels({"app": float("nan")}), f"{LABELS}[app]: is the number nan; {QUOTE}"),
    (labels({"app": date(2026, 1, 31)}), f"{LABELS}[app]: is the date 2026-01-31; {QUOTE}"),
    (labels({"app": None}), f"{LABELS}[app]: is null; write a string"),
    (labels({"app": "*"}), f'{LABELS}[app]: is "*"; {VALUE_RULE}'),
    (labels({"app": "a b"}), f'{LABELS}[app]: is "a b"; {VALUE_RULE}'),
    (labels({"app": "web-"}), f'{LABELS}[app]: is "web-"; {VALUE_RULE}'),
    (labels({"app": "web\n"}), f'{LABELS}[app]: is "web\\n"; {VALUE_RULE}'),
    (labels({"app": "a" * 64}), f"{LABELS}[app]: is longer than 63 characters; {VALUE_RULE}"),
    (ports([]), f"{PORTS}: is a list; write a mapping, such as {{8080: {{mode: STRICT}}}}"),
    (ports({}), f"{PORTS}: is empty; name a port, or leave it out"),
    (ports({0: None}), f"{PORTS}[0]: {PORT_RULE}"),
    (ports({-1: None}), f"{PORTS}[-1]: {PORT_RULE}"),
    (ports({65536: None}), f"{PORTS}[65536]: {PORT_RULE}"),
    (ports({"65536": None}), f"{PORTS}[65536]: {PORT_RULE}"),
    (ports({"http": None}), f"{PORTS}[http]: {PORT_RULE}"),
    (ports({"": None}), f'{PORTS}[""]: {PORT_RULE}'),
    (ports({" 80": None}), f'{PORTS}[" 80"]: {PORT_RULE}'),
    (ports({"+80": None}), f'{PORTS}["+80"]: {PORT_RULE}'),
    (ports({"8_0": None}), f"{PORTS}[8_0]: {PORT_RULE}"),
    (ports({"٨٠": None}), f'{PORTS}["\\u0668\\u0660"]: {PORT_RULE}'),
    (ports({"0x50": None}), f"{PORTS}[0x50]: {PORT_RULE}"),
    (ports({80.0: None}), f"{PORTS}[80.0]: {PORT_RULE}"),
    (ports({True: None}), f"{PORTS}[true]: {PORT_RULE}"),
    (ports({None: None}), f"{PORTS}[null]: {PORT_RULE}"),
    (ports({HUGE: None}), f"{PORTS}[a huge number]: {PORT_RULE}"),
    (ports({"9" * 5000: None}), f'{PORTS}["{"9" * 80}"...]: {PORT_RULE}'),
    (
        ports({8080: None, "8080": None}),
        f"{PORTS}[8080]: sets port 8080 again; keep one of the two",
    ),
    (
        ports({"8080": None, "08080": None}),
        f"{PORTS}[08080]: sets port 8080 again; keep one of the two",
    ),
    (
        ports({8080: "STRICT"}),
        f'{PORTS}[8080]: is "STRICT"; write a mapping, such as {{mode: STRICT}}',
    ),
    (
        ports({8080: {"mode": "strict"}}),
        f'{PORTS}[8080].mode: is "strict"; write STRICT, in exactly these letters',
    ),
    (
        manifest({"portLevelMtls": {8080: {"mode": "STRICT"}}}),
        (
            f"{PORTS}: stands without selector labels; "
            "add spec.selector.matchLabels, or leave portLevelMtls out"
        ),
    ),
]


def said_about(document: object) -> str:
    policy, problems = parse_peer_authentication(document)
    assert policy is None
    assert {problem.severity for problem in problems} == {Severity.ERROR}
    return "\n".join(f"{p.path}: {p.found}; {p.wanted}" for p in problems)


@pytest.mark.parametrize(
    ("document", "message"), REFUSED, ids=[f"{i}-{row[1][:40]}" for i, row in enumerate(REFUSED)]
)
def test_a_wrong_field_is_refused_by_one_message(document: object, message: str) -> None:
    assert said_about(document) == message


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, f"PeerAuthentication: is empty; {WHOLE}"),
        ([], f"PeerAuthentication: is a list; {WHOLE}"),
        ("web", f'PeerAuthentication: is "web"; {WHOLE}'),
        (True, f"PeerAuthentication: is the boolean true; {WHOLE}"),
        ({1, 2}, f"PeerAuthentication: is of the type set; {WHOLE}"),
        (
            manifest() | {"metadata": None},
            "PeerAuthentication: metadata.name: is missing; give the policy a name",
        ),
        (
            manifest() | {"metadata": {"name": "Web", "namespace": {}}},
            f'PeerAuthentication default/Web: metadata.name: is "Web"; {NAME_RULE}',
        ),
        (
            manifest(name="a\rb"),
            f'PeerAuthentication finance/?: metadata.name: is "a\\rb"; {NAME_RULE}',
        ),
    ],
    ids=["null", "list", "text", "boolean", "set", "no metadata", "no namespace", "hostile name"],
)
def test_a_message_names_its_document_as_well_as_it_can(document: object, message: str) -> None:
    _, problems = parse_peer_authentication(document)
    assert str(problems[0]) == message


def test_a_message_begins_with_the_place() -> None:
    _, problems = parse_peer_authentication([], location=Location("web.yaml", 12))
    assert str(problems[0]) == f"web.yaml:12: PeerAuthentication: is a list; {WHOLE}"


def test_metadata_that_is_no_mapping_is_refused() -> None:
    assert said_about(manifest() | {"metadata": "web"}) == (
        'metadata: is "web"; write a mapping, such as {name: default}\n'
        "metadata.name: is missing; give the policy a name"
    )


def test_all_problems_of_a_document_are_reported_at_once() -> None:
    document = {
        "kind": "PeerAuthentication",
        "metadata": {"name": "Web"},
        "spec": {
            "selector": {"matchLabels": {"app": 1, "tier": "a b"}},
            "mtls": {"mode": "strict", "mdoe": "STRICT"},
            "portLevelMtls": {"http": {"mode": 7}},
        },
    }
    policy, problems = parse_peer_authentication(document)
    assert policy is None
    assert [(problem.path, problem.severity) for problem in problems] == [
        ("apiVersion", Severity.ERROR),
        ("metadata.name", Severity.ERROR),
        ("spec.selector.matchLabels[app]", Severity.ERROR),
        ("spec.selector.matchLabels[tier]", Severity.ERROR),
        ("spec.mtls.mdoe", Severity.WARNING),
        ("spec.mtls.mode", Severity.ERROR),
        ("spec.portLevelMtls[http].mode", Severity.ERROR),
        ("spec.portLevelMtls[http]", Severity.ERROR),
    ]


def test_labels_that_are_refused_are_not_also_called_missing() -> None:
    document = manifest({"selector": {"matchLabels": 5}, "portLevelMtls": {8080: None}})
    assert (
        said_about(document) == f"{LABELS}: is the number 5; write a mapping, such as {{app: web}}"
    )


EMPTY = (
    "is empty, so the policy holds for all of its namespace (in the root namespace: for all of the "
    "mesh); name labels, or leave the selector out"
)
UNKNOWN = "is an unknown field and has no effect"

# (document, everything that is said about it)
WARNED = [
    (manifest({"selector": {}}), f"spec.selector: {EMPTY}"),
    (labels({}), f"{LABELS}: {EMPTY}"),
    (labels(None), f"{LABELS}: {EMPTY}"),
    (manifest({"mTLS": {"mode": "STRICT"}}), f"spec.mTLS: {UNKNOWN}; did you mean mtls?"),
    (
        manifest({"port_level_mtls": {}}),
        f"spec.port_level_mtls: {UNKNOWN}; did you mean portLevelMtls?",
    ),
    (
        manifest({"rules": []}),
        f"spec.rules: {UNKNOWN}; the fields here are selector, mtls, portLevelMtls",
    ),
    (
        manifest({"\x1b[2J": 1}),
        f'spec["\\u001b[2J"]: {UNKNOWN}; the fields here are selector, mtls, portLevelMtls',
    ),
    (manifest({7: 1}), f"spec[7]: {UNKNOWN}; the fields here are selector, mtls, portLevelMtls"),
    (
        manifest({"selector": {**SELECTOR, "matchExpressions": []}}),
        f"spec.selector.matchExpressions: {UNKNOWN}; the only field here is matchLabels",
    ),
    (
        manifest({"mtls": {"Mode": "STRICT"}}),
        f"spec.mtls.Mode: {UNKNOWN}; did you mean mode?",
    ),
    (
        ports({80: {"mod": "STRICT"}}),
        f"{PORTS}[80].mod: {UNKNOWN}; did you mean mode?",
    ),
    (manifest(namepsace="x"), f"metadata.namepsace: {UNKNOWN}; did you mean namespace?"),
    (
        manifest() | {"mtls": {"mode": "STRICT"}},
        f"mtls: {UNKNOWN}; the fields here are apiVersion, kind, metadata, spec, status",
    ),
]


@pytest.mark.parametrize(
    ("document", "message"), WARNED, ids=[re.sub("[^ -~]", "", row[1][:50]) for row in WARNED]
)
def test_what_has_no_effect_is_accepted_with_a_warning(document: object, message: str) -> None:
    policy, (warning,) = parse_peer_authentication(document)
    assert policy is not None
    assert warning.severity is Severity.WARNING
    assert f"{warning.path}: {warning.found}; {warning.wanted}" == message


def test_an_unknown_field_sets_nothing() -> None:
    policy, _ = parse_peer_authentication(manifest({"mTLS": {"mode": "STRICT"}}))
    assert policy is not None
    assert policy.mode is Mode.UNSET


@pytest.mark.parametrize(
    ("ports_of", "found"),
    [
        ({8080: {"mode": "STRICT"}}, "stands without selector labels, so it is ignored"),
        ({}, "is empty"),
    ],
    ids=["ports without selector", "no ports"],
)
def test_what_is_stored_all_the_same_is_ignored_with_a_warning(
    ports_of: object, found: str
) -> None:
    document = manifest({"mtls": {"mode": "DISABLE"}, "portLevelMtls": ports_of})
    policy, (warning,) = parse_peer_authentication(document, stored=True)
    assert policy is not None
    assert (policy.mode, policy.port_modes) == (Mode.DISABLE, {})
    assert (warning.severity, warning.found) == (Severity.WARNING, found)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("app", "a b"),
        ("app", "ü"),
        ("app", "x" * 64),
        ("UP case!", "web"),
        ("", "web"),
        ("app", "web\x1b[2J"),
    ],
)
def test_a_stored_selector_of_labels_that_no_pod_can_have_selects_none(
    key: str, value: str
) -> None:
    document = manifest({"selector": {"matchLabels": {key: value}}, "mtls": {"mode": "DISABLE"}})
    assert parse_peer_authentication(document)[0] is None

    policy, (warning,) = parse_peer_authentication(document, stored=True)

    assert policy is not None
    assert policy.selector == {key: value}
    assert warning.severity is Severity.WARNING
    assert warning.found.endswith("which no pod can have: it selects none")
    index = PolicyIndex([policy], root_namespace="istio-system")
    verdict = index.effective("finance", {"app": "web"}, ports=[8080])
    assert verdict.mode_of(8080) is Mode.PERMISSIVE
    assert not any("\x1b" in each.why for each in verdict.considered)


@pytest.mark.parametrize(
    ("key", "modes", "found"),
    [
        ("+80", {80: Mode.STRICT}, None),
        ("0080", {80: Mode.STRICT}, None),
        ("http", {}, "is not a port, so it is ignored"),
        ("70000", {}, "is not a port, so it is ignored"),
    ],
)
def test_a_stored_port_is_read_as_istio_reads_it(
    key: str, modes: dict[int, Mode], found: str | None
) -> None:
    document = ports({key: {"mode": "STRICT"}})
    policy, problems = parse_peer_authentication(document, stored=True)
    assert policy is not None
    assert policy.port_modes == modes
    assert [each.found for each in problems] == ([found] if found else [])


def test_of_two_stored_modes_of_one_port_the_safer_counts() -> None:
    document = ports({"80": {"mode": "DISABLE"}, "080": {"mode": "STRICT"}})
    policy, (warning,) = parse_peer_authentication(document, stored=True)
    assert policy is not None
    assert policy.port_modes == {80: Mode.STRICT}
    assert warning.found == "sets port 80 again, of which STRICT counts"


def test_a_port_without_a_mode_is_as_good_as_none() -> None:
    # The API server drops the null, so that there is no word to say.
    policy, problems = parse_peer_authentication(ports({8080: None, 9090: {"mode": "STRICT"}}))
    assert policy is not None
    assert (policy.port_modes[9090], problems) == (Mode.STRICT, ())

    policy, (warning,) = parse_peer_authentication(ports({8080: None}))
    assert policy is not None
    assert warning.found.startswith("has nothing but null, which an API server drops")


def test_a_generated_name_is_told_from_none() -> None:
    document = manifest({})
    document["metadata"] = {"generateName": "strict-"}
    _, (problem,) = parse_peer_authentication(document)
    assert (problem.path, problem.found) == ("metadata.name", "is missing")
    assert problem.wanted.startswith("generateName makes another object each time")


def test_a_stored_object_is_not_excused_from_the_other_rules() -> None:
    policy, _ = parse_peer_authentication(mode("strict"), stored=True)
    assert policy is None
