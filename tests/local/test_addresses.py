from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.errors import EnvironmentLackError, InputError
from troth.local.addresses import AddressPool, ServiceAddresses

SMALL = IPv4Network("10.9.0.0/29")


def test_a_pool_hands_out_all_but_network_gateway_and_broadcast() -> None:
    pool = AddressPool(SMALL)
    assert [pool.allocate() for _ in range(5)] == [f"10.9.0.{n}" for n in range(2, 7)]


def test_a_used_up_pool_says_which_range() -> None:
    pool = AddressPool(SMALL)
    for _ in range(5):
        pool.allocate()
    with pytest.raises(EnvironmentLackError, match=r"all 5 addresses of 10\.9\.0\.0/29 are in use"):
        pool.allocate()


def test_a_released_address_comes_back_only_after_all_others() -> None:
    pool = AddressPool(SMALL)
    first = pool.allocate()
    pool.release(first)
    assert [pool.allocate() for _ in range(5)] == [f"10.9.0.{n}" for n in (3, 4, 5, 6, 2)]


@pytest.mark.parametrize("network", ["10.0.0.0/31", "10.0.0.0/32", "fd00::/128"])
def test_a_range_without_room_is_a_lack_and_no_loop(network: str) -> None:
    with pytest.raises(EnvironmentLackError):
        AddressPool(ip_network(network)).allocate()


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=60))
def test_no_address_is_ever_held_twice(steps: list[int | None]) -> None:
    pool = AddressPool(SMALL)
    held: list[str] = []
    for step in steps:
        if step is None and len(held) < 5:
            address = pool.allocate()
            assert address not in held
            assert ip_address(address) in SMALL
            held.append(address)
        elif step is not None and step < len(held):
            pool.release(held.pop(step))


def test_a_service_keeps_its_address() -> None:
    services = ServiceAddresses()
    first = services.assign("finance/payments")
    services.assign("finance/other")
    assert services.assign("finance/payments") == first


def test_a_service_keeps_its_address_when_it_is_given_one_of_another_family_too() -> None:
    services = ServiceAddresses()
    first = services.assign("a/b")
    both = services.assign("a/b", families=("IPv4", "IPv6"))
    assert both[0] == first[0]
    assert services.assign("a/b", families=("IPv6",)) == both[1:]
    assert services.assign("a/c", requested=first) == first


def test_two_families_give_two_addresses_in_the_order_asked_for() -> None:
    v6, v4 = ServiceAddresses().assign("a/b", families=("IPv6", "IPv4"))
    assert ip_address(v6).version == 6
    assert ip_address(v4).version == 4


def test_an_explicit_cluster_ip_is_honoured_and_comes_first() -> None:
    services = ServiceAddresses()
    addresses = services.assign("a/b", families=("IPv4", "IPv6"), requested=["10.96.0.10"])
    assert addresses[0] == "10.96.0.10"
    assert ip_address(addresses[1]).version == 6


def test_an_explicit_ip_in_long_form_is_kept_in_canonical_form() -> None:
    services = ServiceAddresses(v6=IPv6Network("fd00::/112"))
    assert services.assign("a/b", families=("IPv6",), requested=["fd00:0::0:9"]) == ("fd00::9",)


def test_a_changed_cluster_ip_replaces_the_old_one_and_frees_it() -> None:
    services = ServiceAddresses()
    services.assign("a/b", requested=["10.96.0.10"])
    assert services.assign("a/b", requested=["10.96.0.11"]) == ("10.96.0.11",)
    assert services.assign("a/c", requested=["10.96.0.10"]) == ("10.96.0.10",)


@pytest.mark.parametrize(
    ("requested", "found"),
    [
        pytest.param("10.96.0.10", "10.96.0.10 is Service a/first's", id="another service's"),
        pytest.param("192.0.2.1", "192.0.2.1 is not available", id="out of the range"),
        pytest.param("10.96.0.1", "10.96.0.1 is not available", id="the gateway's"),
    ],
)
def test_an_explicit_cluster_ip_that_cannot_be_had_is_refused(requested: str, found: str) -> None:
    services = ServiceAddresses()
    services.assign("a/first", requested=["10.96.0.10"])
    with pytest.raises(InputError) as refused:
        services.assign("a/second", requested=[requested])
    assert str(refused.value) == (
        f"Service a/second: spec.clusterIP: {found}; "
        "use a free address of 10.96.0.0/16, or leave it out"
    )


def test_a_service_that_was_refused_an_address_can_still_have_another() -> None:
    services = ServiceAddresses()
    with pytest.raises(InputError):
        services.assign("a/b", requested=["192.0.2.1"])
    assert services.assign("a/b") == ("10.96.1.0",)
