"""Capture: nftables rules in a pod's network namespace that redirect its TCP through Envoy.

The rules fail closed: they redirect to ports on which only Envoy listens, so without Envoy a
connection is refused and never bypasses it. They ignore UDP, connections inside the pod, and what
the node's own processes send to it (see `host_rules`). They match only a connection's first packet
(SYN), so connections from before the capture continue.

NAT decides once per tracked connection, and the kernel takes any segment for the first. A client
that sends an ACK before the SYN could evade NAT that way (and a connection that died unnoticed can
have the same effect). So each SYN is checked again after NAT, and is dropped unless it goes to
Envoy.

Envoy's connections to the app come from their client's own address (see `routes`). One may have
both addresses and both ports in common with the connection that it continues. If the kernel tracked
both, it would confuse them, so it doesn't track Envoy's. The app's end looks like the end of a
connection with the client: packets for it from outside the pod are dropped.

A client's connection opens before Envoy connects to the app, so the client doesn't retry if the app
refuses. The kernel retries instead: an app that starts to listen within a second gets the
connection.
"""

from __future__ import annotations

import asyncio
import subprocess
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from troth.agent.admission import (
    AdmissionLimits,
    admission_rules,
    idle_admission_rules,
    no_admission_rules,
)
from troth.agent.netlink import keep_inside
from troth.agent.netns import call_in, call_in_cgroups, call_in_new
from troth.agent.refusals import IF_HEARD, no_refusal_rules, refusal_rules
from troth.agent.ruleset import chains_of, read_ruleset
from troth.agent.set_elements import FIRST_PACKET
from troth.agent.sysctls import apply_sysctls
from troth.errors import EnvironmentLackError, PeerError
from troth.mesh.ports import APP_MARK, ENVOY_MARK, OWN_PORTS, PORT_SETS, TUNNEL_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from troth.agent.ruleset import Ruleset
    from troth.mesh.ports import PortSet

TABLE = "troth"

PROBE_SOURCE_V4 = "169.254.7.150"
PROBE_SOURCE_V6 = "fd74:726f:7468::7:150"
"""The source address of the node's own processes in its captured pods, used by nobody else (RFC
3927, RFC 4193). See `troth.agent.host_rules`.
"""

_PROBES = f"ip saddr {PROBE_SOURCE_V4} return; ip6 saddr {PROBE_SOURCE_V6} return;"

_TO_APP = f"""\
  chain answered {{
    type filter hook output priority raw; policy accept;
    meta mark {APP_MARK:#x} notrack
  }}
  chain answering {{
    type filter hook prerouting priority raw; policy accept;
    iif "lo" meta mark {APP_MARK:#x} notrack
  }}
  chain unmarked {{
    type filter hook prerouting priority raw; policy accept;
    iif "lo" meta mark {ENVOY_MARK:#x} meta mark set 0
  }}
  chain inside {{
    type filter hook output priority 0; policy accept;
    meta mark {APP_MARK:#x} oif != "lo" drop
  }}
  chain outside {{
    type filter hook input priority 0; policy accept;
    iif != "lo" socket mark {APP_MARK:#x} drop
  }}"""

_PATIENCE = f"""\
  set awaited {{
    type inet_service . inet_service; flags dynamic,timeout; size 4096; timeout 3s; gc-interval 5s;
  }}
  chain unready {{
    {IF_HEARD}
    tcp sport . tcp dport @awaited return
    add @awaited {{ tcp sport . tcp dport }} drop
  }}"""
"""If nobody listens, the first SYN of Envoy's connections to the app is dropped.

The kernel retransmits it after a second, which reaches the app if it listens by then, and is
refused otherwise. If the set is full, the first one is refused.
"""

_ENTRANCES = ", ".join(str(port) for ports in PORT_SETS for port in (ports.inbound, ports.tunnel))
"""Those of both Envoys: first packets that are redirected to one may be retransmitted later."""


def capture_rules(
    ports: PortSet = PORT_SETS[0], *, probes: bool = False, patient: bool = True
) -> str:
    """The whole table as one nftables transaction, for IPv4 and IPv6 alike.

    Args:
        ports: Of the Envoy that gets new connections. Existing ones stay where they are.
        probes: Don't redirect connections from the probes' source. Only if the node's own rules
            (`host_rules`) ensure that nobody else has that address.
        patient: Make Envoy's connections to the app wait a moment for it to listen. Needs Linux
            5.11.
    """
    unready = f'iif "lo" meta mark {APP_MARK:#x} {FIRST_PACKET} jump unready'
    exempt = _PROBES if probes else ""
    hidden = ", ".join(str(port) for port in OWN_PORTS if port != TUNNEL_PORT)
    tunnel = "return" if ports.tunnel == TUNNEL_PORT else f"{FIRST_PACKET} dnat to :{ports.tunnel}"
    return f"""\
add table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
{_TO_APP}
  chain guard {{
    type filter hook prerouting priority -150; policy accept;
    iif != "lo" tcp dport {{ {hidden} }} drop
    iif != "lo" ip daddr 127.0.0.0/8 drop
    {unready if patient else ""}
  }}
{_PATIENCE if patient else ""}
  chain outbound {{
    type nat hook output priority -100; policy accept;
    meta mark {ENVOY_MARK:#x} return
    fib daddr type local return
    {FIRST_PACKET} redirect to :{ports.outbound}
  }}
  chain inbound {{
    type nat hook prerouting priority -100; policy accept;
    iif "lo" return
    fib daddr type != local return
    {exempt}
    tcp dport {TUNNEL_PORT} {tunnel}
    {FIRST_PACKET} redirect to :{ports.inbound}
  }}
  chain leaving {{
    type filter hook output priority 0; policy accept;
    {FIRST_PACKET} jump leaving_first
  }}
  chain leaving_first {{
    meta mark {ENVOY_MARK:#x} return
    fib daddr type local return
    drop
  }}
  chain entering {{
    type filter hook input priority 0; policy accept;
    {FIRST_PACKET} jump entering_first
  }}
  chain entering_first {{
    iif "lo" return
    {exempt}
    tcp dport {{ {_ENTRANCES} }} return
    drop
  }}
}}
"""


def release_rules(ports: PortSet = PORT_SETS[0]) -> str:
    """The same table without new captures.

    Connections redirected before continue: the kernel translates them as long as there are NAT
    chains, and tracks connections as long as a rule requires it.

    Args:
        ports: Of the Envoy that still serves late clients of the tunnel.
    """
    late = ""
    if ports.tunnel != TUNNEL_PORT:
        late = f'iif != "lo" tcp dport {TUNNEL_PORT} {FIRST_PACKET} dnat to :{ports.tunnel}'
    return f"""\
add table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
{_TO_APP}
  chain outbound {{
    type nat hook output priority -100; policy accept;
    ct state new return
  }}
  chain inbound {{
    type nat hook prerouting priority -100; policy accept;
    {late}
    ct state new return
  }}
}}
"""


class Kernel(NamedTuple):
    """Which optional rules this machine's kernel supports.

    Attributes:
        refusing: Those that need Linux 5.11: refuse connections to ports where nobody listens, and
            make Envoy's connections to the app wait a moment.
    """

    refusing: bool


def complete_rules(
    ports: PortSet = PORT_SETS[0],
    *,
    probes: bool = False,
    admission: AdmissionLimits | None = None,
    kernel: Kernel = Kernel(refusing=True),  # noqa: B008 - immutable
) -> str:
    """All tables of a captured pod as one nftables transaction; arguments as of `capture`."""
    return "".join(
        (
            capture_rules(ports, probes=probes, patient=kernel.refusing),
            no_admission_rules() if admission is None else admission_rules(admission),
            refusal_rules(
                unheard=kernel.refusing,
                uncounted=(PROBE_SOURCE_V4, PROBE_SOURCE_V6) if probes else (),
            ),
        )
    )


@cache
def expected_ruleset(
    ports: PortSet = PORT_SETS[0],
    *,
    probes: bool = False,
    admission: AdmissionLimits | None = None,
) -> Ruleset:
    """The kernel's version of a capture, tried in a network namespace of its own.

    It takes a moment, so call it in a thread; arguments and errors as of `capture`.
    """
    rules = complete_rules(ports, probes=probes, admission=admission, kernel=tried_kernel())
    return made_ruleset(rules)


def made_ruleset(rules: str) -> Ruleset:
    """The kernel's version of a transaction, tried in a network namespace of its own.

    Raises:
        EnvironmentLackError: The kernel can't create a network namespace, or nft is missing.
        PeerError: The kernel refuses the rules.
        OSError: The rules can't be read back.
    """

    def make() -> Ruleset:
        _nft(rules)
        return read_ruleset(chains_of(rules))

    return call_in_new(make)


@cache
def tried_kernel() -> Kernel:
    """Try a complete capture in a network namespace of its own, once per process.

    It takes a moment, so call it in a thread.

    Raises:
        EnvironmentLackError: No pod can be captured: the kernel refuses something that capture
            requires, or nft is missing.
    """
    return call_in_new(_try)


def _try() -> Kernel:
    complaint = ""
    # The second Envoy's ports need one more rule than the first one's.
    ports = PORT_SETS[1]
    for kernel in (Kernel(refusing=True), Kernel(refusing=False)):
        try:
            _capture_here(complete_rules(ports, probes=True, admission=_ANY_LIMITS, kernel=kernel))
        except PeerError as error:
            complaint = " ".join(error.reason.replace("^", " ").split())[:_MOST_SAID]
        else:
            return kernel
    lacking = ", ".join(part for part, rules in _PARTS.items() if not _takes(rules))
    raise EnvironmentLackError(
        f"no pod can be captured, because the kernel refuses the rules: {complaint}",
        f"load or build what it lacks: {lacking}"
        if lacking
        else "run a kernel that has nf_tables with all its parts",
    )


def _takes(rules: str) -> bool:
    try:
        _nft(f"add table inet {_TRIAL}\n{rules}\ndelete table inet {_TRIAL}\n")
    except PeerError:
        return False
    return True


_MOST_SAID = 300
"""Characters of nft's message."""

_ANY_LIMITS = AdmissionLimits(burst=4, total_burst=8, total_rate=1)

_TRIAL = "troth_trial"


def _part(kind: str, hook: str, rule: str = "") -> str:
    chain = f"add chain inet {_TRIAL} c {{ type {kind} hook {hook} priority 0; }}"
    return f"{chain}\nadd rule inet {_TRIAL} c {rule}" if rule else chain


_PARTS: Mapping[str, str] = {
    "nf_tables of family inet": "",
    "nft_chain_nat": _part("nat", "output"),
    "nft_redir": _part("nat", "output", "tcp dport 1 redirect to :2"),
    "nft_nat": _part("nat", "prerouting", "tcp dport 1 dnat to :2"),
    "nft_fib_inet": _part("filter", "output", "fib daddr type local return"),
    "nft_socket": _part("filter", "input", "socket mark 1 drop"),
    "nft_ct": _part("filter", "output", "ct state new return"),
    "nft_reject_inet": _part("filter", "output", "reject with tcp reset"),
    "nft_limit": _part("filter", "prerouting", "limit rate over 1/second drop"),
    "dynamic sets of nf_tables": (
        f"add set inet {_TRIAL} s {{ type ipv4_addr; flags dynamic,timeout; size 4; timeout 1s; }}"
        "\n" + _part("filter", "prerouting", "update @s { ip saddr counter }")
    ),
}
"""Kernel features that the rules use, by the kernel's names, each with minimal rules to try it."""


async def capture(
    netns: Path,
    ports: PortSet = PORT_SETS[0],
    *,
    probes: bool = False,
    admission: AdmissionLimits | None = None,
) -> None:
    """Redirect the TCP of the network namespace at ``netns`` through Envoy; idempotent.

    Args:
        netns: The pod's.
        ports: As of `capture_rules`.
        probes: As of `capture_rules`.
        admission: The rate limits for strangers at the tunnel; None for no limit.

    Raises:
        EnvironmentLackError: As of `tried_kernel`, or the kernel doesn't let us set sysctls.
        PeerError: The kernel refused the rules, or there is no such namespace.
    """

    def visit() -> None:
        kernel = tried_kernel()
        _capture_here(complete_rules(ports, probes=probes, admission=admission, kernel=kernel))

    await asyncio.to_thread(call_in, netns, visit)


def _capture_here(rules: str) -> None:
    """Capture the calling thread's network namespace."""
    lacking = apply_sysctls()
    keep_inside()
    _nft(rules)
    if lacking:  # the rules may have loaded their modules
        apply_sysctls()


async def release(netns: Path, ports: PortSet = PORT_SETS[0]) -> None:
    """Stop capturing new connections of the network namespace at ``netns``; raises like `capture`.

    Args:
        netns: The pod's.
        ports: As of `release_rules`.
    """
    door = idle_admission_rules() + no_refusal_rules()
    await apply_ruleset(netns, release_rules(ports) + door)


async def forget(netns: Path) -> None:
    """Take away all tables from a released network namespace; raises as `capture` does.

    Connections that were led to Envoy end with it.
    """
    own = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"
    await apply_ruleset(netns, own + no_admission_rules() + no_refusal_rules())


async def is_captured(netns: Path) -> bool:
    """Whether the network namespace at ``netns`` is captured now; raises as `capture` does."""
    rules = await asyncio.to_thread(call_in, netns, lambda: _nft("list ruleset inet"))
    own = rules.partition(f"table inet {TABLE} {{")[2].partition("\n}")[0]
    return "redirect" in own


async def apply_ruleset(netns: Path, ruleset: str, *, cgroups: Path | None = None) -> None:
    """Run one nftables transaction inside a network namespace; raises as `capture` does.

    Args:
        netns: The network namespace.
        ruleset: What nft reads.
        cgroups: The cgroup namespace whose levels the rules count, if they count any.
    """

    def run() -> str:
        return call_in(netns, lambda: _nft(ruleset))

    if cgroups is None:
        await asyncio.to_thread(run)
    else:
        await asyncio.to_thread(call_in_cgroups, cgroups, run)


_NFT_SECONDS = 30.0
"""A pod that slows its own kernel tables down must not delay all others for long."""


def _nft(commands: str) -> str:
    """Run nft commands in the calling thread's network namespace; returns their output."""
    try:
        done = subprocess.run(
            ["nft", "-f", "-"],
            input=commands,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_NFT_SECONDS,
        )
    except FileNotFoundError as error:
        raise EnvironmentLackError("nft is not installed", "install nftables") from error
    except subprocess.TimeoutExpired as error:
        raise PeerError("nft", f"no answer within {_NFT_SECONDS:.0f} s") from error
    if done.returncode:
        raise PeerError("nft", done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout
