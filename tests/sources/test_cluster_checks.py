from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from troth.kube import wire
from troth.sources.cluster_checks import Checks

groups = st.lists(st.sampled_from(["", "0", "00a", "FFFF", "12345", "1.2.3.4"]), max_size=10)
texts = st.one_of(
    groups.map(":".join),
    st.text("0123456789abcdefABCDEF:.%", max_size=45),
    st.ip_addresses().map(str),
    st.text(),
)


def checked(text: str) -> tuple[str, bool]:
    checks = Checks("Pod", wire.Header(name="web"))
    return checks.address(text, "status.podIP"), checks.refused


@given(texts)
@example("::ffff:1.2.3.4")
@example("::1.2.3.4")
@example("1:2:3:4:5:6:7::")
@example("1:0:0:2:0:0:0:3")
def test_an_address_is_written_as_pythons_and_what_is_none_there_is_refused(text: str) -> None:
    try:
        expected: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        assert checked(text) == ("", True)
    else:
        if "%" not in text:
            assert checked(text) == (str(expected), False)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "10.0.0.1\n", "", "::1\0"])
def test_an_address_with_something_after_it_is_none(text: str) -> None:
    assert checked(text) == ("", True)
