"""What the mesh says about names, by the DNS specification of Kubernetes."""

from __future__ import annotations

import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.local.names import Reply, encoded, names_of, parse, plain, respond
from troth.local.plan import Published, Resolution
from troth.mesh.model import Endpoint, Pod, Service, ServicePort

DB = "db.finance.svc.cluster.local"
PAYMENTS = "payments.finance.svc.cluster.local"
NAMES = names_of(
    Resolution(
        services={
            "finance/payments": Service(
                namespace="finance",
                name="payments",
                cluster_ips=("10.96.0.9", "fd74:726f:7468:96::9"),
                ports=(ServicePort(number=80, name="http"), ServicePort(number=81, name="more")),
            ),
            "finance/db": Service(
                namespace="finance",
                name="db",
                ports=(
                    ServicePort(
                        number=5432,
                        name="pg",
                        endpoints=(Endpoint("10.244.0.3", 5433), Endpoint("10.244.0.4", 5434)),
                    ),
                ),
            ),
            "finance/none": Service(namespace="finance", name="none"),
        },
        published={
            "finance/payments": (Published(address="10.244.0.2"),),
            "finance/db": (
                Published(address="10.244.0.3", hostname="first"),
                Published(address="10.244.0.4"),
            ),
        },
        aliases={
            "finance/near": PAYMENTS,
            "finance/far": "db.example",
            "finance/lost": "nothing.finance.svc.cluster.local",
        },
    ),
    [Pod(uid="u", namespace="finance", name="p", addresses=("10.244.0.2", "fd74:726f:7468::2"))],
)


def ask(name: str, kind: str = "A") -> Reply:
    query = parse(dns.message.make_query(name, kind).to_wire())
    assert isinstance(query, dns.message.QueryMessage)
    return respond(query, NAMES)


def answers(name: str, kind: str = "A") -> list[str]:
    reply = ask(name, kind)
    assert reply.outside is None
    assert reply.message.rcode() == dns.rcode.NOERROR
    return [
        line.removeprefix(f"{name}. 5 IN ")
        for rrset in reply.message.answer
        for line in sorted(rrset.to_text().splitlines())
    ]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        pytest.param(PAYMENTS, "A", ["A 10.96.0.9"], id="a service"),
        pytest.param(PAYMENTS, "AAAA", ["AAAA fd74:726f:7468:96::9"], id="of its IPv6"),
        pytest.param(DB, "A", ["A 10.244.0.3", "A 10.244.0.4"], id="a headless service"),
        pytest.param(DB, "AAAA", [], id="single-stack"),
        pytest.param(f"first.{DB}", "A", ["A 10.244.0.3"], id="a hostname"),
        pytest.param(f"10-244-0-4.{DB}", "A", ["A 10.244.0.4"], id="an endpoint without one"),
        pytest.param(f"10-244-0-2.{PAYMENTS}", "A", ["A 10.244.0.2"], id="an endpoint"),
        pytest.param(
            "10-244-0-2.finance.pod.cluster.local", "A", ["A 10.244.0.2"], id="a pod's address"
        ),
        pytest.param("none.finance.svc.cluster.local", "A", [], id="without endpoints"),
        pytest.param("finance.svc.cluster.local", "A", [], id="a namespace"),
        pytest.param(f"_http._tcp.{PAYMENTS}", "SRV", [f"SRV 0 100 80 {PAYMENTS}."], id="a port"),
        pytest.param(
            f"_pg._tcp.{DB}",
            "SRV",
            [f"SRV 0 100 5433 first.{DB}.", f"SRV 0 100 5434 10-244-0-4.{DB}."],
            id="a headless service's port",
        ),
        pytest.param("9.0.96.10.in-addr.arpa", "PTR", [f"PTR {PAYMENTS}."], id="a virtual IP"),
        pytest.param("3.0.244.10.in-addr.arpa", "PTR", [f"PTR first.{DB}."], id="an endpoint's IP"),
        pytest.param("dns-version.cluster.local", "TXT", ['TXT "1.1.0"'], id="the version"),
    ],
)
def test_a_name_has_these_records(name: str, kind: str, expected: list[str]) -> None:
    assert answers(name, kind) == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nothing.finance.svc.cluster.local", "A"),
        (f"second.{DB}", "A"),
        ("payments.other.svc.cluster.local", "A"),
        ("10-244-0-9.finance.pod.cluster.local", "A"),
        (f"_nothing._tcp.{PAYMENTS}", "SRV"),
        ("99.0.244.10.in-addr.arpa", "PTR"),
        ("lost.finance.svc.cluster.local", "AAAA"),
    ],
)
def test_other_names_in_the_mesh_do_not_exist(name: str, kind: str) -> None:
    reply = ask(name, kind)
    assert reply.outside is None
    assert reply.message.rcode() == dns.rcode.NXDOMAIN


def test_an_alias_of_the_mesh_is_answered_with_what_it_stands_for() -> None:
    name = "near.finance.svc.cluster.local"
    assert answers(name) == [f"CNAME {PAYMENTS}.", f"{PAYMENTS}. 5 IN A 10.96.0.9"]


@pytest.mark.parametrize("name", ["db.example", "localhost", "local", "x.cluster.locals"])
def test_others_are_asked_about_other_names(name: str) -> None:
    reply = ask(name)
    assert reply.outside is not None
    assert plain(reply.outside) == name


def test_others_are_asked_about_what_an_alias_leads_out_to() -> None:
    reply = ask("far.finance.svc.cluster.local")
    assert str(reply.outside) == "db.example."
    assert reply.message.answer[0][0].to_text() == "db.example."


def test_an_answer_keeps_the_spelling_of_the_question() -> None:
    spelled = "PAYments.finance.SVC.cluster.local."
    assert str(ask(spelled).message.answer[0].name) == spelled


def test_an_answer_too_long_for_a_datagram_is_marked_and_whole_over_tcp() -> None:
    published = tuple(Published(address=f"10.244.0.{number}") for number in range(1, 101))
    many = names_of(
        Resolution(
            services={"finance/many": Service(namespace="finance", name="many")},
            published={"finance/many": published},
        ),
        (),
    )
    query = dns.message.make_query("many.finance.svc.cluster.local", "A")
    message = respond(query, many).message
    short = dns.message.from_wire(encoded(query, message, tcp=False))
    assert short.flags & dns.flags.TC
    assert len(encoded(query, message, tcp=False)) <= 512
    whole = dns.message.from_wire(encoded(query, message, tcp=True))
    assert len(whole.answer[0]) == 100


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda wire: wire[:12], dns.rcode.FORMERR),
        (lambda wire: wire[:20], dns.rcode.FORMERR),
        (lambda wire: wire[:12] + b"\xc0\x0c" + wire[14:], dns.rcode.FORMERR),
        (lambda wire: wire + bytes(2000), dns.rcode.FORMERR),
        (lambda wire: wire[:2] + b"\x28" + wire[3:], dns.rcode.NOTIMP),
        (lambda wire: wire[:-1] + b"\x03", dns.rcode.REFUSED),
    ],
)
def test_a_bad_question_is_answered_with_what_is_bad_about_it(
    change: object, code: dns.rcode.Rcode
) -> None:
    wire = dns.message.make_query(PAYMENTS, "A").to_wire()
    assert callable(change)
    refusal = parse(change(wire))
    assert isinstance(refusal, bytes)
    assert dns.message.from_wire(refusal).rcode() == code
    assert refusal[:2] == wire[:2]


def test_an_answer_is_not_answered() -> None:
    query = dns.message.make_query(PAYMENTS, "A")
    assert parse(dns.message.make_response(query).to_wire()) is None


@given(st.binary(max_size=100), st.integers(0, 60))
def test_no_message_does_harm(junk: bytes, at: int) -> None:
    wire = dns.message.make_query(PAYMENTS, "A").to_wire()
    query = parse(wire[:at] + junk + wire[at + len(junk) :])
    if isinstance(query, dns.message.QueryMessage):
        encoded(query, respond(query, NAMES).message, tcp=False)
