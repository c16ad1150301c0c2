from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from troth.local.hosts import (
    HostDns,
    host_dns,
    hosts_text,
    kernel_hostname,
    nsswitch_text,
    resolv_conf,
    update_in_place,
)
from troth.manifests.workloads import DnsConfig, DnsPolicy, HostAlias, PodTemplate
from troth.mesh.model import Pod

if TYPE_CHECKING:
    from pathlib import Path

WEB = Pod(uid="u", namespace="finance", name="web-0", addresses=("10.244.0.2", "fd00::2"))
TEMPLATE = PodTemplate(namespace="finance", name="web-0")
CLUSTER_SEARCH = "finance.svc.cluster.local svc.cluster.local cluster.local"
HOST = HostDns(nameservers=("10.0.0.53",), searches=("lan",), options=("timeout:2", "rotate"))


def template(**fields: object) -> PodTemplate:
    return msgspec.structs.replace(TEMPLATE, **fields)


def own_lines(made: PodTemplate) -> list[str]:
    return [line for line in hosts_text(WEB, made).splitlines() if "ip6-" not in line][2:]


def test_a_pod_finds_localhost_and_itself() -> None:
    assert hosts_text(WEB, TEMPLATE) == (
        "# Written by troth, as the kubelet does it.\n"
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::0\tip6-localnet\n"
        "fe00::0\tip6-mcastprefix\n"
        "fe00::1\tip6-allnodes\n"
        "fe00::2\tip6-allrouters\n"
        "10.244.0.2\tweb-0\n"
        "fd00::2\tweb-0\n"
    )


def test_a_pod_with_a_subdomain_finds_its_own_full_name() -> None:
    assert own_lines(template(hostname="w", subdomain="web")) == [
        "10.244.0.2\tw.web.finance.svc.cluster.local\tw",
        "fd00::2\tw.web.finance.svc.cluster.local\tw",
    ]


def test_host_aliases_have_a_line_each() -> None:
    aliases = (
        HostAlias(ip="10.9.9.9", hostnames=("old.example", "older.example")),
        HostAlias(ip="fd00::9", hostnames=("six.example",)),
    )
    assert own_lines(template(host_aliases=aliases))[2:] == [
        "",
        "# Entries added by HostAliases.",
        "10.9.9.9\told.example\tolder.example",
        "fd00::9\tsix.example",
    ]


@pytest.mark.parametrize(
    ("fields", "hostname"),
    [
        pytest.param({}, "web-0", id="the pod's name"),
        pytest.param({"hostname": "w", "subdomain": "web"}, "w", id="its own"),
        pytest.param(
            {"subdomain": "web", "fqdn_as_hostname": True},
            "web-0.web.finance.svc.cluster.local",
            id="all of it",
        ),
        pytest.param({"fqdn_as_hostname": True}, "web-0", id="all of it, which is no more"),
        pytest.param({"name": "a" * 62 + "-b"}, "a" * 62, id="cut to 63 characters"),
    ],
)
def test_the_kernel_knows_the_pod_by_its_hostname(fields: dict[str, object], hostname: str) -> None:
    assert kernel_hostname(template(**fields)) == hostname


def resolver(made: PodTemplate, host: HostDns = HOST) -> list[str]:
    return resolv_conf(made, nameserver="10.244.0.1", host=host).text.splitlines()


MESH_FIRST = [f"search {CLUSTER_SEARCH} lan", "nameserver 10.244.0.1", "options ndots:5"]
AS_THE_HOST = ["search lan", "nameserver 10.0.0.53", "options timeout:2 rotate"]


@pytest.mark.parametrize(
    ("policy", "host_network", "lines"),
    [
        (DnsPolicy.CLUSTER_FIRST, False, MESH_FIRST),
        (DnsPolicy.CLUSTER_FIRST, True, AS_THE_HOST),
        (DnsPolicy.CLUSTER_FIRST_WITH_HOST_NET, True, MESH_FIRST),
        (DnsPolicy.DEFAULT, False, AS_THE_HOST),
        (DnsPolicy.NONE, False, ["nameserver 127.0.0.1"]),
    ],
)
def test_a_pod_looks_names_up_by_its_policy(
    policy: DnsPolicy, *, host_network: bool, lines: list[str]
) -> None:
    made = template(dns=DnsConfig(policy=policy), host_network=host_network)
    assert resolver(made) == lines


def test_a_mesh_without_a_way_out_has_nothing_of_the_hosts() -> None:
    assert resolver(TEMPLATE, HostDns()) == [
        f"search {CLUSTER_SEARCH}",
        "nameserver 10.244.0.1",
        "options ndots:5",
    ]


def test_dns_config_is_added_and_replaces_options() -> None:
    config = DnsConfig(
        nameservers=("10.9.9.9", "10.244.0.1"),
        searches=("corp.example", "lan"),
        options=(("ndots", "2"), ("edns0", "")),
    )
    assert resolver(template(dns=config)) == [
        f"search {CLUSTER_SEARCH} lan corp.example",
        "nameserver 10.244.0.1",
        "nameserver 10.9.9.9",
        "options ndots:2 edns0",
    ]


def test_what_a_resolver_has_no_room_for_is_left_out_and_told() -> None:
    servers = ("10.9.9.1", "10.9.9.2", "10.9.9.3")
    searches = tuple(f"{'a' * 60}.{'b' * 60}.d{number}" for number in range(16))
    made = template(dns=DnsConfig(nameservers=servers, searches=searches))
    found = resolv_conf(made, nameserver="10.244.0.1", host=HostDns())
    search, *named = found.text.splitlines()[:-1]
    assert len(search.removeprefix("search ")) <= 2048
    assert search.endswith(searches[14])
    assert named == [f"nameserver {each}" for each in ("10.244.0.1", *servers[:2])]
    assert found.left_out == (f"search domain {searches[15]}", "name server 10.9.9.3")


def test_what_the_hosts_resolver_is_told_is_read_as_the_kubelet_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# nameserver 1.1.1.1\nsearch old\nnameserver 10.0.0.53\nnameserver 127.0.0.1\n"
        "search lan. home .\noptions rotate timeout:1\noptions timeout:2\nnameserver\n"
    )
    assert host_dns(path) == HostDns(
        nameservers=("10.0.0.53",), searches=("lan", "home"), options=("rotate", "timeout:2")
    )
    assert host_dns(tmp_path / "none", tmp_path / "none") == HostDns()


def test_behind_a_resolver_on_the_hosts_loopback_are_those_that_it_asks(tmp_path: Path) -> None:
    stub, behind = tmp_path / "stub", tmp_path / "behind"
    stub.write_text("nameserver 127.0.0.53\nsearch lan\n")
    behind.write_text("nameserver 10.0.0.53\n")
    assert host_dns(stub, behind) == HostDns(nameservers=("10.0.0.53",), searches=("lan",))


@pytest.mark.parametrize(
    "hosts", ["hosts: files resolve [!UNAVAIL=return] dns\n", "  hosts :\tdb files\n", ""]
)
def test_no_service_of_the_host_answers_for_names(hosts: str) -> None:
    text = nsswitch_text(f"passwd: files systemd\n{hosts}networks: files\n")
    assert "hosts: files dns\n" in text
    assert "resolve" not in text
    assert "passwd: files systemd\n" in text


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
