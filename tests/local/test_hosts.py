from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from troth.local._hosts import hosts_text, resolv_conf_text, update_in_place
from troth.mesh import Endpoint, Pod, Service, ServicePort
from troth.sources import PodTemplate

if TYPE_CHECKING:
    from pathlib import Path

WEB = Pod(uid="u", namespace="finance", name="web-0", addresses=("10.244.0.2", "fd00::2"))
TEMPLATE = PodTemplate(namespace="finance", name="web-0")


def lines(*services: Service, template: PodTemplate = TEMPLATE, **arguments: object) -> list[str]:
    text = hosts_text(WEB, template, services, **arguments)  # type: ignore[arg-type] # a test's own
    return [line.replace("\t", " ") for line in text.splitlines()[3:]]


def headless(*addresses: str) -> Service:
    endpoints = tuple(Endpoint(address, 80) for address in addresses)
    ports = tuple(ServicePort(number=n, name=f"p{n}", endpoints=endpoints) for n in (80, 81))
    return Service(namespace="finance", name="db", ports=ports)


def test_a_pod_finds_localhost_and_itself() -> None:
    assert hosts_text(WEB, TEMPLATE, ()) == (
        "# Written by troth, and again whenever a Service changes.\n"
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "10.244.0.2\tweb-0\n"
        "fd00::2\tweb-0\n"
    )


def test_a_service_has_its_short_name_in_its_own_namespace_only() -> None:
    near = Service(namespace="finance", name="payments", cluster_ips=("10.96.0.9", "fd00::9"))
    far = Service(namespace="ops", name="payments", cluster_ips=("10.96.0.8",))
    names = "payments.finance.svc.cluster.local payments.finance.svc payments.finance payments"
    assert lines(far, near)[2:] == [
        f"10.96.0.9 {names}",
        f"fd00::9 {names}",
        "10.96.0.8 payments.ops.svc.cluster.local payments.ops.svc payments.ops",
    ]


def test_the_cluster_domain_is_as_given() -> None:
    service = Service(namespace="ops", name="x", cluster_ips=("10.96.0.8",))
    assert lines(service, cluster_domain="corp.example")[2:] == [
        "10.96.0.8 x.ops.svc.corp.example x.ops.svc x.ops"
    ]


def test_a_headless_service_has_the_addresses_of_its_ready_endpoints_once_each() -> None:
    names = "db.finance.svc.cluster.local db.finance.svc db.finance db"
    assert lines(headless("10.244.0.3", "10.244.0.4"))[2:] == [
        f"10.244.0.3 {names}",
        f"10.244.0.4 {names}",
    ]


def test_a_service_without_addresses_has_no_line() -> None:
    assert lines(headless())[2:] == []


def test_a_peer_has_a_name_below_its_headless_service_when_it_is_ready() -> None:
    peers = [
        (
            Pod(uid=n, namespace="finance", name=f"db-{n}", addresses=(f"10.244.0.{n}",)),
            PodTemplate(namespace="finance", name=f"db-{n}", subdomain="db"),
        )
        for n in "34"
    ]
    assert lines(headless("10.244.0.3"), peers=peers)[3:] == [
        "10.244.0.3 db-3.db.finance.svc.cluster.local db-3.db.finance.svc db-3.db.finance db-3.db"
    ]


def test_a_pod_with_a_subdomain_finds_its_own_full_name() -> None:
    template = PodTemplate(namespace="finance", name="web-0", hostname="w", subdomain="web")
    assert lines(template=template) == [
        "10.244.0.2 w.web.finance.svc.cluster.local w",
        "fd00::2 w.web.finance.svc.cluster.local w",
    ]


def test_resolv_conf_searches_as_in_kubernetes_and_fails_at_once_without_a_server() -> None:
    assert resolv_conf_text("finance") == (
        "search finance.svc.cluster.local svc.cluster.local cluster.local\n"
        "nameserver 127.0.0.1\n"
        "options ndots:5 timeout:1 attempts:2\n"
    )


def test_resolv_conf_names_the_servers_given() -> None:
    text = resolv_conf_text("finance", nameservers=("10.0.0.53", "fd00::53"))
    assert "nameserver 10.0.0.53\nnameserver fd00::53\n" in text
    assert "127.0.0.1" not in text


@pytest.mark.parametrize("text", ["longer than before\n", "short\n", "", "ünï\n"])
def test_an_update_keeps_the_file_that_is_mounted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hosts"
    update_in_place(path, "first text\n")
    before = path.stat().st_ino
    update_in_place(path, text)
    assert path.read_text() == text
    assert path.stat().st_ino == before


def test_an_update_does_not_follow_a_link(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        update_in_place(path, "x")
    assert not (tmp_path / "elsewhere").exists()
