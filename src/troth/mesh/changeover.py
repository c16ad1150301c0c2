"""How a pod and its clients go from one mode to another without losing a new connection: pure.

A port that doesn't take plaintext, and a client that still sends it, or sends it already, must
never meet. So what a server takes and what its clients do are told apart, one step at a time:

- A server takes plaintext as soon as it may. Clients leave the tunnel when all that the server's
  Envoy may have in force takes it.
- Clients enter the tunnel as soon as they shall. The server ends taking plaintext when nothing
  that their Envoys may have in force sends it.

The tunnel's listener takes connections in every mode, so every client in the tunnel is served.

Clients on other nodes go by what the server's node has *offered* them (an annotation on the pod),
and have moved when their nodes say so. Nobody is waited for longer than `PATIENCE_SECONDS`: a node
that doesn't answer must not keep a port open that the policy closes.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from troth.mesh.model import NO_PORTS, Ports

PATIENCE_SECONDS = 2.0
"""How long a port stays open for clients that have not moved, from when the policy closed it."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be of one pod in the end, as the policies say now.

    Attributes:
        takes: The ports at which it takes plaintext.
        sent: The ports to which clients of the mesh send plaintext, a subset of ``takes``; all of
            a pod that clients don't know as one of the mesh's.
        offered: The ports of which other nodes may have been told that it takes plaintext there.
        labels: The pod's.
    """

    takes: Ports
    sent: Ports
    offered: Ports = NO_PORTS
    labels: Mapping[str, str] = {}


class Changeover(msgspec.Struct, frozen=True, kw_only=True):
    """How far one pod and its clients are.

    Attributes:
        takes: The ports at which its Envoy is told to take plaintext.
        sent: The ports to which clients on its own node may be told to send plaintext.
        surely_takes: The ports at which all that Envoy may have in force takes plaintext.
        maybe_sent: The ports to which something that Envoy may have in force sends plaintext.
        elsewhere: The ports to which clients on other nodes may send plaintext.
        moved: When clients on other nodes will have heard that there are fewer of these; None if
            there are not.
        until: When `takes` becomes what is wanted, whatever clients do; None if it is.
        labels: The pod's when all was as wanted.
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
        """A pod that this agent hasn't known before: arguments as for `step`."""
        # Whatever an earlier agent has offered, no more is taken than the policies say.
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
        """What may be told next.

        Args:
            wanted: What is to be in the end.
            now: By any clock that never goes back, in seconds.
            heard: Whether all other nodes go by the policies that ``wanted`` follows from.
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
        """What may be in force once clients on its own node are told to send plaintext there."""
        return msgspec.structs.replace(self, maybe_sent=self.maybe_sent | sent)

    def confirmed(self, sent: Ports) -> Changeover:
        """What is in force once Envoy has taken over all that it was told.

        Args:
            sent: What clients on its own node were told last.
        """
        return msgspec.structs.replace(self, surely_takes=self.takes, maybe_sent=sent)

    def _elsewhere(self, wanted: Wanted, *, now: float, heard: bool) -> tuple[Ports, float | None]:
        elsewhere = self.elsewhere | wanted.offered
        if elsewhere == wanted.offered:
            return elsewhere, None
        moved = self.moved if self.moved is not None else now + PATIENCE_SECONDS
        # Nodes say by which policies they go. Of a pod's labels they say nothing: only time helps.
        if now >= moved or (heard and wanted.labels == self.labels):
            return wanted.offered, None
        return elsewhere, moved
