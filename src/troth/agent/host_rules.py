"""Lets the kubelet's probes bypass Envoy in captured pods.

A probe must reach the app itself, also under STRICT, and must fail if the app does; a proxy that
accepts for the app would answer every TCP probe. So the pod's rules exempt one source address that
nobody has, and rules in the node's own namespace ensure that only the kubelet gets it, and only at
the ports that the pod's probes name:

* The kubelet's packets to such a port of a captured pod on this node get that source address.
  Forwarded packets have no socket here, so pods, other machines and NodePort clients, masqueraded
  or not, keep theirs. So do all other processes of the node, including host-network pods. Only if
  no cgroup distinguishes the kubelet (see `troth.agent.kubelet`), root's processes count as it.
* Packets that arrive at the node with that address are forged, and dropped. So are those that enter
  a bridge of the node through one of its ports, as between two pods; the node's own packets don't.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import structlog

from troth.agent.capture import (
    PROBE_SOURCE_V4,
    PROBE_SOURCE_V6,
    apply_ruleset,
    made_ruleset,
)
from troth.agent.kubelet import NODE_CGROUPS, PORT, find_kubelet
from troth.agent.netns import call_in, call_in_cgroups
from troth.agent.proof import Part, Restoration
from troth.agent.ruleset import RulesetMonitor, difference_of, generation, read_ruleset
from troth.agent.set_elements import FIRST_PACKET, SetChange, SetElements, transaction
from troth.errors import TrothError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from troth.agent.kubelet import Cgroup, KubeletProcess
    from troth.agent.ruleset import Ruleset

_NAME = "troth-node"
TABLE, BRIDGE_TABLE = f"inet {_NAME}", f"bridge {_NAME}"

_log = structlog.get_logger(__name__)

_REVIEW_SECONDS = 30.0
_RETRY_SECONDS = 0.5

# Just before kube-proxy and CNIs choose a source, as the first choice is final.
_PRIORITY = 90

# A packet of a socket in this namespace has an owner; a forwarded one has none.
_ROOT = "meta skuid 0"

_ASKING_SECONDS = 1

_KUBELET_SET = f"""\
add table {TABLE}
add set {TABLE} kubelet {{ typeof socket cgroupv2 level 1; }}
add set {TABLE} nobody {{ typeof socket cgroupv2 level 1; }}
"""
_CGROUP = struct.Struct("=Q")


def host_rules(probed: Iterable[tuple[str, int]], *, level: int | None = None) -> str:
    """The whole table as one nftables transaction.

    The set ``kubelet``, with the number of its cgroup, stays as it is.

    Args:
        probed: Addresses and ports of the node's captured pods that the kubelet probes.
        level: Of the kubelet's cgroup, if that tells it from the node's other processes.
    """
    known = sorted(set(probed))
    v4 = _elements(each for each in known if ":" not in each[0])
    v6 = _elements(each for each in known if ":" in each[0])
    if level is None:
        asking = ""
        own = f"{_ROOT} {{0}} daddr . tcp dport @{{1}}"
    else:
        # Who owns a socket is known on its packets' way out, by its cgroup only at its beginning.
        of_kubelet = f"{_ROOT} socket cgroupv2 level {level} @kubelet"
        # The next socket with that port may be another process's, so each first packet is judged.
        # A cgroup below the kubelet's is another's, perhaps a pod's: where there is no such level,
        # the kernel leaves the last rule.
        asking = "".join(
            f"    {whose}{family} daddr . tcp dport @{probed} {FIRST_PACKET}"
            f" {note} @{name} {{ {family} saddr . tcp sport . {family} daddr . tcp dport }}\n"
            for family, probed, name in (("ip", "probed", "asking"), ("ip6", "probed6", "asking6"))
            for whose, note in (
                ("", "delete"),
                (f"{of_kubelet} ", "add"),
                (f"{_ROOT} socket cgroupv2 level {level + 1} != @nobody ", "delete"),
            )
        )
        own = "{0} saddr . tcp sport . {0} daddr . tcp dport @{2}"
    expires = f"flags dynamic, timeout; timeout {_ASKING_SECONDS}s; size 65535"
    return f"""\
{_KUBELET_SET}\
add set {TABLE} probed {{ type ipv4_addr . inet_service; }}
add set {TABLE} probed6 {{ type ipv6_addr . inet_service; }}
add set {TABLE} asking {{ type ipv4_addr . inet_service . ipv4_addr . inet_service; {expires}; }}
add set {TABLE} asking6 {{ type ipv6_addr . inet_service . ipv6_addr . inet_service; {expires}; }}
flush set {TABLE} probed
flush set {TABLE} probed6
add chain {TABLE} forged {{ type filter hook prerouting priority -300; policy accept; }}
add chain {TABLE} output {{ type filter hook output priority 0; policy accept; }}
add chain {TABLE} own {{ type nat hook postrouting priority {_PRIORITY}; policy accept; }}
flush chain {TABLE} forged
flush chain {TABLE} output
flush chain {TABLE} own
table {TABLE} {{
  set probed {{
    type ipv4_addr . inet_service; {v4}
  }}
  set probed6 {{
    type ipv6_addr . inet_service; {v6}
  }}
  chain forged {{
    ip saddr {PROBE_SOURCE_V4} drop
    ip6 saddr {PROBE_SOURCE_V6} drop
  }}
  chain output {{
{asking}  }}
  chain own {{
    {own.format("ip", "probed", "asking")} {FIRST_PACKET} snat ip to {PROBE_SOURCE_V4}
    {own.format("ip6", "probed6", "asking6")} {FIRST_PACKET} snat ip6 to {PROBE_SOURCE_V6}
  }}
}}
"""


def bridge_rules() -> str:
    """Guards pods that share a bridge, since frames between them don't pass the other table.

    VLAN 0 means no VLAN: the kernel removes all such tags, but rules see only what is behind the
    first one. So nested ones are dropped.
    """
    vlan = "{ 0x8100, 0x88a8 }"  # IEEE 802.1Q, 802.1ad
    return f"""\
add table {BRIDGE_TABLE}
delete table {BRIDGE_TABLE}
table {BRIDGE_TABLE} {{
  chain forged {{
    type filter hook prerouting priority -300; policy accept;
    meta protocol ip ip saddr {PROBE_SOURCE_V4} drop
    meta protocol ip6 ip6 saddr {PROBE_SOURCE_V6} drop
    @ll,96,16 {vlan} @ll,116,12 0 @ll,128,16 {vlan} drop comment "a tag in VLAN 0"
  }}
}}
"""


def _elements(probed: Iterable[tuple[str, int]]) -> str:
    text = ", ".join(f"{address} . {port}" for address, port in probed)
    return f"elements = {{ {text} }}" if text else ""


class HostRules:
    """Keeps the rules in the node's namespace as its captured pods need them.

    Others on a node can remove them (a firewall's reload flushes all tables), so they are restored:
    at once when the kernel reports it, and periodically if there was any transaction since; also
    soon after the kubelet has restarted, in another cgroup.

    Args:
        netns: The node's own network namespace.
        on_change: Called when `in_place`, `trouble` or `leniency` has changed by itself.
        on_restored: Called when somebody else had changed them.
        review_seconds: How often they are checked.
        find: Finds the node's kubelet.
    """

    def __init__(
        self,
        netns: Path,
        *,
        on_change: Callable[[], None] = lambda: None,
        on_restored: Callable[[Restoration], None] = lambda _: None,
        review_seconds: float = _REVIEW_SECONDS,
        find: Callable[[], KubeletProcess | None] = find_kubelet,
    ) -> None:
        self._netns = netns
        self._on_change = on_change
        self._on_restored = on_restored
        self._review_seconds = review_seconds
        self._find = find
        self._wanted: frozenset[tuple[str, int]] | None = None
        self._applied: frozenset[tuple[str, int]] | None = None
        self._troubles = {TABLE: "", BRIDGE_TABLE: ""}
        self._kubelet: _WatchedKubelet | None = None
        self._listed: Cgroup | None = None
        self._not_told = ""
        self._removed = False
        self._placed: dict[str, _Placed] = {}
        self._generation: int | None = None
        self._due = asyncio.Event()
        self._applying = asyncio.Lock()

    @property
    def in_place(self) -> bool:
        """Whether, as far as known, only the node's own processes can use the probes' source.

        Pods on one bridge are not considered: not every kernel can keep them from it.
        """
        return self._applied is not None and self._applied == self._wanted

    @property
    def leniency(self) -> str:
        """Why others than the kubelet may pass for it; empty if none may."""
        if not self._wanted or self._listed is not None:
            return ""
        if self._kubelet is not None and self._kubelet.process is not None:
            return "the kubelet's cgroup doesn't tell it from other processes"
        return f"no kubelet listens on port {PORT}"

    @property
    def trouble(self) -> str:
        """What is wrong, and its consequence; empty if nothing is."""
        return "; ".join(filter(None, self._troubles.values()))

    async def let_in(self, probed: Collection[tuple[str, int]]) -> None:
        """Let the kubelet's probes reach these addresses and ports, and no others."""
        async with self._applying:
            self._wanted = frozenset(probed)
            if not self.in_place:
                await self._apply(self._wanted, bridges=self._applied is None)

    async def remove(self) -> None:
        """Remove the rules, as no pod of the node uses them."""
        async with self._applying:
            if self._removed:
                return
            self._forget()
            self._removed = True
            for table in (TABLE, BRIDGE_TABLE):
                try:
                    await apply_ruleset(self._netns, f"add table {table}\ndelete table {table}\n")
                except TrothError as error:
                    _log.warning("the node's rules stay", table=table, reason=str(error))

    async def let_go(self) -> None:
        """Leave the rules to another agent, until the next `let_in`."""
        async with self._applying:
            self._forget()

    def _forget(self) -> None:
        self._wanted = self._applied = self._listed = None
        self._placed.clear()
        self._troubles = dict.fromkeys(self._troubles, "")
        self._watch(None)

    async def run(self) -> None:
        """Restore the rules until cancelled: periodically, and soon if they are due."""
        monitor = await self._watch_rules()
        try:
            while True:
                is_due = True
                try:
                    async with asyncio.timeout(self._review_seconds):
                        await self._due.wait()
                    await asyncio.sleep(min(_RETRY_SECONDS, self._review_seconds))
                except TimeoutError:
                    is_due = False
                await self._review(monitor, in_turn=not is_due)
        finally:
            self._watch(None)
            if monitor is not None:
                asyncio.get_running_loop().remove_reader(monitor.fileno())
                monitor.close()

    async def _watch_rules(self) -> RulesetMonitor | None:
        """Watch for changes of the rules by others."""
        try:
            monitor = await asyncio.to_thread(RulesetMonitor, self._netns, _NAME.encode())
        except (TrothError, OSError) as error:
            _log.info("the kernel doesn't tell when the node's rules change", reason=str(error))
            return None

        def look() -> None:
            if monitor.look():
                self._due.set()

        asyncio.get_running_loop().add_reader(monitor.fileno(), look)
        return monitor

    async def _review(self, monitor: RulesetMonitor | None, *, in_turn: bool) -> None:
        async with self._applying:
            loss = await asyncio.to_thread(self._loss) if self._wanted is not None else ""
            lives = self._kubelet is not None and self._kubelet.process is not None
            is_whole = self.in_place and not loss and (lives or self._kubelet is None)
            # In its turn the sets are written again, too, if there was any transaction since.
            is_known = lives and loss is None and not self.trouble
            if self._wanted is None or (is_whole and (is_known or not in_turn)):
                self._due.clear()
                return
            before = self.in_place, self.trouble, self.leniency
            await self._apply(self._wanted, bridges=True)
            changed = before != (self.in_place, self.trouble, self.leniency)
        if loss:
            by = f", by {monitor.changed_by}" if monitor and monitor.changed_by else ""
            self._on_restored(Restoration("", Part.NODE_RULES, f"{loss}{by}"))
        if changed:
            self._on_change()
        await asyncio.to_thread(self._loss)  # for the number of that transaction

    def _loss(self) -> str | None:
        """What somebody has changed, in words; None if nobody has changed any rules at all."""
        try:
            number = call_in(self._netns, generation)
            if number == self._generation:
                return None
            losses = [each.loss(self._netns) for each in self._placed.values()]
        except (TrothError, OSError) as error:
            _log.info("the node's rules can't be read", reason=str(error))
            return ""
        if not any(losses):
            self._generation = number
        return "; ".join(filter(None, losses))

    async def _apply(self, wanted: frozenset[tuple[str, int]], *, bridges: bool) -> None:
        if bridges:
            trouble = "pods on one bridge can pass for the node"
            if await self._put(BRIDGE_TABLE, bridge_rules(), trouble):
                self._placed[BRIDGE_TABLE] = _Placed(bridge_rules())
            else:
                self._placed.pop(BRIDGE_TABLE, None)
        self._removed = False
        # To find it takes a look at all processes, so not with each pod that comes while it lives.
        found = self._kubelet.process if self._kubelet is not None and not bridges else None
        if found is None:
            found = await asyncio.to_thread(self._find)
        if found is not None:
            self._watch(found)
        is_there = await self._put_for(wanted, found.cgroup if found else self._listed)
        self._applied = wanted if is_there else None
        if not is_there:
            self._placed.pop(TABLE, None)
        elif self._listed is not None:
            self._placed[TABLE] = _Placed(host_rules((), level=self._listed.level), NODE_CGROUPS)
        else:
            self._placed[TABLE] = _Placed(host_rules(()))
        if self.in_place and (found is not None or self._kubelet is None):
            self._due.clear()
        else:
            self._due.set()

    async def _put_for(self, wanted: frozenset[tuple[str, int]], cgroup: Cgroup | None) -> bool:
        """Install the rules, only for the kubelet's cgroup if there is one."""
        consequence = "probes of STRICT pods fail"
        if cgroup is None:
            self._listed = None
            return await self._put(TABLE, host_rules(wanted), consequence)
        try:
            if self._listed is None:
                # What is there meanwhile stays: no probe fails, and nobody else gets in.
                if not await self._put(TABLE, _KUBELET_SET, consequence):
                    return False
                await asyncio.to_thread(self._list, cgroup)
            rules = host_rules(wanted, level=cgroup.level)
            await apply_ruleset(self._netns, rules, cgroups=NODE_CGROUPS)
            await asyncio.to_thread(self._list, cgroup)
            self._listed = cgroup
        except (OSError, TrothError) as error:
            self._listed = None
            if str(error) != self._not_told:
                self._not_told = str(error)
                _log.warning("root's other processes pass for the kubelet", reason=str(error))
            return await self._put(TABLE, host_rules(wanted), consequence)
        return True

    def _list(self, cgroup: Cgroup) -> None:
        with SetElements(self._netns) as sets:
            name, key = TABLE.split()[1], _CGROUP.pack(cgroup.number)
            others = sets.keys(name, "kubelet") - {key}
            change = SetChange(name="kubelet", added=[key], removed=others)
            sets.commit(transaction(name, [change]))

    def _watch(self, kubelet: KubeletProcess | None) -> None:
        """Watch for the end of that process; its successor gets its own watch."""
        if self._kubelet is not None:
            if kubelet is not None and kubelet == self._kubelet.process:
                return
            self._kubelet.close()
            self._kubelet = None
        if kubelet is not None:
            with contextlib.suppress(OSError):  # it has ended already: the next look finds another
                self._kubelet = _WatchedKubelet(kubelet, self._due.set)

    async def _put(self, table: str, rules: str, consequence: str) -> bool:
        trouble = ""
        try:
            await apply_ruleset(self._netns, rules)
        except TrothError as error:
            first, _, _ = str(error).partition("\n")  # the others are about the same table
            trouble = f"{consequence}: {first}"
        if trouble != self._troubles[table]:
            self._troubles[table] = trouble
            if trouble:
                _log.error("the node's rules are not in place", table=table, reason=trouble)
            else:
                _log.info("the node's rules are in place again", table=table)
        return not trouble


class _Placed(NamedTuple):
    """A table as it should be: a transaction that creates it, and whose cgroups it names."""

    rules: str
    cgroups: Path | None = None

    def loss(self, netns: Path) -> str:
        """What of it is missing or different, in words."""
        expected = _made(*self)
        return call_in(netns, lambda: difference_of(expected, read_ruleset(expected)))


@cache
def _made(rules: str, cgroups: Path | None) -> Ruleset:
    if cgroups is None:
        return made_ruleset(rules)
    return call_in_cgroups(cgroups, lambda: made_ruleset(rules))


class _WatchedKubelet:
    """Calls back when a process has ended."""

    def __init__(self, kubelet: KubeletProcess, on_end: Callable[[], None]) -> None:
        self._watched = kubelet
        self._descriptor = os.pidfd_open(kubelet.pid)
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._loop.add_reader(self._descriptor, self._ended)

    @property
    def process(self) -> KubeletProcess | None:
        """The watched process; None once it has ended."""
        return self._watched if self._descriptor >= 0 else None

    def close(self) -> None:
        """Stop watching."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _ended(self) -> None:
        self.close()
        self._on_end()
