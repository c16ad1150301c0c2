from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.errors import InputError
from troth.sockets import (
    LONGEST_KEEPALIVE_SECONDS,
    SHORTEST_KEEPALIVE_SECONDS,
    Keepalive,
    ListenAddress,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9464", ListenAddress(host="127.0.0.1", port=9464)),
        ("[::1]:1", ListenAddress(host="::1", port=1)),
        ("9464", ListenAddress(port=9464)),
        ("0.0.0.0:65535", ListenAddress(host="0.0.0.0", port=65535)),
        ("unix:/run/m.sock", ListenAddress(path="/run/m.sock")),
    ],
)
def test_addresses_are_read_and_written(text: str, expected: ListenAddress) -> None:
    address = ListenAddress.parse(text, option="--metrics")
    assert address == expected
    assert str(address) == text


def test_a_relative_path_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ListenAddress.parse("unix:m", option="x") == ListenAddress(path=str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "has no port"),
        ("65536", "has no port"),
        (":9464", "has no IP address"),
        ("localhost:9464", "has no IP address"),
        ("::1:9464", "writes an IPv6 address without brackets, or another one in them"),
        ("[127.0.0.1]:1", "writes an IPv6 address without brackets, or another one in them"),
        ("127.0.0.1:0", "has '0' for a port"),
        ("127.0.0.1:65536", "has '65536' for a port"),
        ("127.0.0.1:", "has '' for a port"),
        ("127.0.0.1:\u0668\u0660", "has '\u0668\u0660' for a port"),
        ("unix:", "names no path"),
        ("unix:/" + "a" * 107, "names a path of 108 bytes, too long for a Unix socket"),
    ],
)
def test_what_is_no_address_is_refused_with_what_would_be_one(text: str, found: str) -> None:
    with pytest.raises(InputError) as caught:
        ListenAddress.parse(text, option="--metrics")
    (problem,) = caught.value.problems
    assert (problem.subject, problem.found) == (f"--metrics {text}", found)
    assert problem.wanted == "write PORT, ADDRESS:PORT, [ADDRESS]:PORT or unix:PATH"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (4, Keepalive(idle=2, interval=1, count=2)),
        (120, Keepalive(idle=60, interval=15, count=4)),
        (7200, Keepalive(idle=60, interval=60, count=119)),
    ],
)
def test_a_time_is_divided_into_probes(seconds: int, expected: Keepalive) -> None:
    assert Keepalive.of(seconds) == expected


@given(st.integers(SHORTEST_KEEPALIVE_SECONDS, LONGEST_KEEPALIVE_SECONDS))
def test_every_time_is_about_kept_by_probes_that_the_kernel_takes(seconds: int) -> None:
    each = Keepalive.of(seconds)
    assert seconds - each.interval < each.idle + each.interval * each.count <= seconds
    assert max(each.idle, each.interval) <= 60
    assert 1 <= each.count <= 127
