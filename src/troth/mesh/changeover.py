"""How a pod and its clients change modes without losing a new connection: pure.

No client may send plaintext to a port that doesn't accept it, neither still nor already. So servers
and clients change one at a time:

- A server accepts plaintext as soon as it may. Clients leave the tunnel once every configuration
  that the server's Envoy may be running accepts plaintext.
- Clients enter the tunnel at once. The server stops accepting plaintext once no configuration that
  their Envoys may be running sends it.

The tunnel's listener accepts connections in every mode, so every client in the tunnel is served.

Clients on other nodes go by what the server's node *offers* (an annotation on the pod), and have
moved when their nodes say so. The wait is `PATIENCE_SECONDS` at most: a node that doesn't answer
must not keep a port open that the policy closes.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from troth.mesh.model import NO_PORTS, Ports

PATIENCE_SECONDS = 2.0
"""How long a port stays open for clients that have not moved after the policy has closed it."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The goal for one pod, by the policies in force.

    Attributes:
        takes: The ports that accept plaintext.
        sent: The ports to which clients of the mesh send plaintext, a subset of ``takes``; all
            ports of a pod that clients don't know to be in the mesh.
        offered: The ports that other nodes may have been told accept plaintext.
        labels: The pod's.
    """

    takes: Ports
    sent: Ports
    offered: Ports = NO_PORTS
    labels: Mapping[str, str] = {}


class Changeover(msgspec.Struct, frozen=True, kw_only=True):
    """How far one pod and its clients have come.

    Attributes:
        takes: The ports at which its Envoy is told to accept plaintext.
        sent: The ports to which clients on its own node may be told to send plaintext.
        surely_takes: The ports that accept plaintext in every configuration that Envoy may run.
        maybe_sent: The ports that get plaintext in some configuration that Envoy may run.
        elsewhere: The ports to which clients on other nodes may send plaintext.
        moved: When clients on other nodes will have heard that `elsewhere` shrinks; None if it
            doesn't.
        until: When `takes` reaches the goal, whatever clients do; None if it has.
        labels: The pod's labels when it last reached the goal.
    """

    takes: Ports
    sent: Ports
    surely_takes: Ports
    maybe_sent: Ports
    elsewhere: Ports = NO_PORTS
    moved: float | None = None
    until: float | None = None
    labels: Mapping[str, str] = {}

    @classmethod
    def begin(cls, wanted: Wanted, *, now: float) -> Changeover:
        """A pod that is new to this agent: arguments as for `step`."""
        # Whatever an earlier agent has offered, accept no more than the policies allow.
        sent = wanted.sent & wanted.takes
        start = cls(
            takes=wanted.takes,
            sent=sent,
            surely_takes=wanted.takes,
            maybe_sent=sent,
            elsewhere=wanted.offered,
        )
        return start.step(wanted, now=now)

    def step(self, wanted: Wanted, *, now: float, heard: bool = False) -> Changeover:
        """The next step towards the goal.

        Args:
            wanted: The goal.
            now: The time of a monotonic clock, in seconds.
            heard: Whether all other nodes have the policies that ``wanted`` derives from.
        """
        elsewhere, moved = self._elsewhere(wanted, now=now, heard=heard)
        takes = wanted.takes | (self.takes & (self.maybe_sent | elsewhere))
        until = None
        if takes != wanted.takes:
            until = self.until if self.until is not None else now + PATIENCE_SECONDS
            if now >= until:
                takes = wanted.takes
        surely_takes = self.surely_takes & takes
        return Changeover(
            takes=takes,
            sent=wanted.sent & surely_takes,
            surely_takes=surely_takes,
            maybe_sent=self.maybe_sent,
            elsewhere=elsewhere,
            moved=moved,
            until=until if takes != wanted.takes else None,
            labels=self.labels if takes != wanted.takes else wanted.labels,
        )

    def told(self, sent: Ports) -> Changeover:
        """The state once clients on its own node are told to send plaintext to ``sent``."""
        return msgspec.structs.replace(self, maybe_sent=self.maybe_sent | sent)

    def confirmed(self, sent: Ports) -> Changeover:
        """The state once Envoy runs its latest configuration.

        Args:
            sent: Where clients on its own node were last told to send plaintext.
        """
        return msgspec.structs.replace(self, surely_takes=self.takes, maybe_sent=sent)

    def _elsewhere(self, wanted: Wanted, *, now: float, heard: bool) -> tuple[Ports, float | None]:
        elsewhere = self.elsewhere | wanted.offered
        if elsewhere == wanted.offered:
            return elsewhere, None
        moved = self.moved if self.moved is not None else now + PATIENCE_SECONDS
        # Nodes report which policies they have, but not which labels of pods: only time helps.
        if now >= moved or (heard and wanted.labels == self.labels):
            return wanted.offered, None
        return elsewhere, moved
