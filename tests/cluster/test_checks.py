from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from troth.cluster.objects import Checks
from troth.kube import wire

groups = st.lists(st.sampled_from(["", "0", "00a", "FFFF", "12345", "1.2.3.4"]), max_size=10)
texts = st.one_of(
    groups.map(":".join),
    st.text("0123456789abcdefABCDEF:.%", max_size=45),
    st.ip_addresses().map(str),
    st.text(),
)


def checked(text: str) -> tuple[str, bool]:
    checks = Checks("Pod", wire.Header(name="web"))
    return checks.address(text, "status.podIP"), bool(checks.errors)


@given(texts)
@example("::ffff:1.2.3.4")
@example("::1.2.3.4")
@example("1:2:3:4:5:6:7::")
@example("1:0:0:2:0:0:0:3")
def test_an_address_is_written_as_pythons_and_what_is_none_there_is_refused(text: str) -> None:
    try:
        expected: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        if "." not in text:
            assert checked(text) == ("", True)
    else:
        mapped = expected.ipv4_mapped if isinstance(expected, IPv6Address) else None
        if "%" not in text:
            assert checked(text) == (str(mapped or expected), False)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("010.001.0.09", "10.1.0.9"),
        ("00000.0.0.1", "0.0.0.1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::FFFF:0102:0304", "1.2.3.4"),
    ],
)
def test_an_address_that_older_api_servers_took_is_read_as_kube_proxy_reads_it(
    text: str, address: str
) -> None:
    assert checked(text) == (address, False)


@pytest.mark.parametrize("text", ["0300.1.1.1", "01.2.3", "01.2.3.4.5", "0x1.2.3.4", "01.2.3.a"])
def test_a_padded_address_that_is_none_is_refused(text: str) -> None:
    assert checked(text) == ("", True)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "10.0.0.1\n", "", "::1\0"])
def test_an_address_with_something_after_it_is_none(text: str) -> None:
    assert checked(text) == ("", True)
