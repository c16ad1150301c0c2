"""What a pod calls itself, and how it looks other names up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from troth._syntax import NAME, Rule, described, is_address
from troth.sources import api
from troth.sources.workloads import DnsConfig, DnsPolicy, HostAlias

if TYPE_CHECKING:
    from troth.sources.reader import Fields

MOST_NAME_SERVERS = 3
MOST_SEARCHES = 32
LONGEST_SEARCH_LIST = 2048
"""Characters, with a space between each two."""

_SEARCH_LABEL = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SEARCH = Rule(
    pattern=re.compile(rf"{_SEARCH_LABEL}(\.{_SEARCH_LABEL})*\.?|\."),
    longest=254,
    wanted="write a DNS domain such as corp.example",
)
_OPTION = Rule(
    pattern=re.compile(r"[!-~]+"), longest=255, wanted="write one word, as in resolv.conf(5)"
)


def read_host_aliases(spec: Fields) -> tuple[HostAlias, ...]:
    """``hostAliases`` of a pod's spec."""
    found = []
    for alias in spec.each("hostAliases"):
        alias.only(("ip", "hostnames"))
        names = alias.strings("hostnames")
        for index, name in enumerate(names):
            if flaw := NAME.flaw(name):
                alias.report.error(f"{alias.at('hostnames')}[{index}]", *flaw)
        given = alias.needed("ip", "write the IP that the names stand for")
        ip = alias.plain_address(alias.at("ip"), given)
        if ip and not is_address(ip):
            alias.error("ip", f"is {described(ip)}", "write an IP")
        found.append(HostAlias(ip=ip, hostnames=names))
    return tuple(found)


def read_dns(spec: Fields) -> DnsConfig:
    """``dnsPolicy`` and ``dnsConfig`` of a pod's spec, checked as an API server does."""
    policy = spec.choice("dnsPolicy", DnsPolicy, DnsPolicy.CLUSTER_FIRST)
    config = spec.fields("dnsConfig")
    config.only(api.POD_DNS_CONFIG)
    servers = config.strings("nameservers")
    for index, server in enumerate(servers):
        if not is_address(server):
            path = f"{config.at('nameservers')}[{index}]"
            config.report.error(path, f"is {described(server)}", "write an IP")
    if policy is DnsPolicy.NONE and not config.items("nameservers"):
        config.missing("nameservers", "name one, as dnsPolicy None leaves the pod without any")
    _at_most(config, "nameservers", servers, MOST_NAME_SERVERS)
    searches = config.strings("searches")
    for index, search in enumerate(searches):
        if flaw := _SEARCH.flaw(search):
            config.report.error(f"{config.at('searches')}[{index}]", *flaw)
    _at_most(config, "searches", searches, MOST_SEARCHES)
    if len(" ".join(searches)) > LONGEST_SEARCH_LIST:
        found = f"has more than {LONGEST_SEARCH_LIST} characters"
        config.error("searches", found, "leave some out")
    return DnsConfig(
        policy=policy,
        nameservers=servers,
        searches=searches,
        options=tuple(
            (
                option.needed("name", "name the option, such as ndots", rule=_OPTION),
                option.string("value", rule=_OPTION),
            )
            for option in config.each("options")
        ),
    )


def _at_most(fields: Fields, name: str, given: tuple[str, ...], most: int) -> None:
    if len(given) > most:
        fields.error(name, f"has {len(given)} of them", f"give no more than {most}")
