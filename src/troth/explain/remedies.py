"""Why a connection was refused or failed and what to do about it: one row per reason.

`Explainer` fills in the words in braces. Text from a peer (claimed identities, Envoy's words about
it) is only ever a value, never a format string.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import yaml

from troth.explain.noted import Noted
from troth.mesh.model import MESH_LABEL, Endpoint
from troth.mesh.ports import OWN_PORTS
from troth.policy.index import PolicyIndex
from troth.policy.model import Mode, PeerAuthentication
from troth.policy.scope import Scope
from troth.policy.verdict import DecidedBy
from troth.syntax import label_text
from troth.traffic.connection import Cause, Reason, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from troth.mesh.model import Pod, Service
    from troth.mesh.world import World
    from troth.traffic.tally import Total

_OF_ONE_RELEASE = frozenset(
    {
        "app.kubernetes.io/version",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-completion-index",
        "controller-revision-hash",
        "controller-uid",
        "helm.sh/chart",
        "pod-template-hash",
        "rollouts-pod-template-hash",
        "statefulset.kubernetes.io/pod-name",
    }
)
"""Labels that differ per rollout or release of a workload, or per pod."""


def stable_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels by which a policy can select a workload's pods permanently."""
    return {key: value for key, value in labels.items() if key not in _OF_ONE_RELEASE}


class NameIndex:
    """An index of the names of one world."""

    def __init__(self, world: World) -> None:
        self._services = {
            address: service
            for service in world.services.values()
            for address in service.cluster_ips
        }
        self._pods: dict[str, Pod] = {}
        self._nodes: dict[str, str] = {}
        for pod in world.pods.values():
            self._pods.setdefault(pod.workload, pod)
            for address in pod.addresses:
                if pod.host_network:
                    self._nodes[address] = pod.node
                else:
                    self._pods.setdefault(address, pod)

    def pod(self, name: str) -> Pod | None:
        """One pod of a workload (``NAMESPACE/NAME``), or the pod that has the address."""
        return self._pods.get(name)

    def node(self, address: str) -> str | None:
        """The node that has an address, if known from host-network pods."""
        return self._nodes.get(address)

    def service(self, total: Total) -> Service | None:
        """The service whose virtual IP was dialled."""
        return self._services.get(total.newest.destination.address)

    def destination(self, total: Total) -> str:
        """The destination, by its service's name if the client dialled a virtual IP."""
        service = self.service(total)
        return str(service) if service else total.destination


_TRACE = "`troth trace {source_name} {destination}:{port}` shows where it stops"
_NO_WRAPPING = 10_000
_BY_MANIFEST = frozenset({Reason.PLAINTEXT_TO_STRICT})
_CUT_SHORT = (
    "Connect again: its proxy makes a handshake with every connection, so this one was cut short. "
    "If it happens often, see in `troth why {destination}` whether somebody floods the tunnel"
)
_OWN_PORTS = "15001, 15006, 15007, 15101, 15106 and 15107 are troth's own ports in every pod"
_A_CHECK = f"Let the check connect to the app's port; {_OWN_PORTS}"

TEXTS: Mapping[Reason, Cause] = {
    Reason.NONE: Cause("Nothing was refused.", "Nothing to do."),
    Reason.PLAINTEXT_TO_STRICT: Cause("Plaintext, and {policy}.", "{admit}."),
    Reason.NO_CLIENT_CERTIFICATE: Cause(
        "It came to the tunnel of {destination} and showed no certificate.",
        "{by_app}.",
    ),
    Reason.WRONG_CLIENT_IDENTITY: Cause(
        "{source} showed a certificate for {claimed}, "
        "which is no identity of trust domain {trust_domain}.",
        "Run both ends in one trust domain (`troth up --trust-domain`), "
        "or find out who gave it this certificate.",
    ),
    Reason.WRONG_SERVER_IDENTITY: Cause(
        "{address}:{port} answered with a certificate for {claimed}, "
        "which is not that of {destination}.",
        "Find out who answers there and by which service account it runs; "
        "if its pod was being replaced at that moment, connect again.",
    ),
    Reason.UNKNOWN_AUTHORITY: Cause(
        "{shower} showed a certificate ({claimed}) that no CA of the mesh has signed.",
        "Let troth issue its certificate: {join_shower}.",
    ),
    Reason.CERTIFICATE_EXPIRED: Cause(
        "{shower} showed a certificate ({claimed}) that had expired.",
        "Certificates of the mesh are renewed long before: see in `troth status` "
        "why this one was not, and compare both clocks.",
    ),
    Reason.CERTIFICATE_NOT_YET_VALID: Cause(
        "{shower} showed a certificate ({claimed}) that was not valid yet.",
        "Compare the clocks of both ends and of the CA.",
    ),
    Reason.CERTIFICATE_INVALID: Cause(
        "{shower} showed a certificate ({claimed}) that does not verify: {detail}.",
        "Let troth issue its certificate: {join_shower}.",
    ),
    Reason.REFUSED_BY_PEER: Cause(
        "{shower} broke the handshake off: {detail}.",
        "The other end's own report says why: `troth events`. " + _TRACE + ".",
    ),
    Reason.TLS_PARAMETERS: Cause(
        "The two ends share no TLS version, cipher suite, group or application protocol.",
        "The tunnel is TLS 1.3 with ALPN troth, between pods of the mesh: {by_app}.",
    ),
    Reason.NOT_TLS: Cause(
        "It spoke something other than TLS to the tunnel of {destination}.",
        "Connect to the app's port; " + _OWN_PORTS + ".",
    ),
    Reason.NO_HANDSHAKE: Cause(
        "It came to the tunnel of {destination} and left without a handshake{unlike}.",
        "{no_handshake}.",
    ),
    Reason.HANDSHAKE_FAILED: Cause("The TLS handshake failed: {detail}.", _TRACE + "."),
    Reason.BAD_SERVER_NAME: Cause(
        "It came to the tunnel of {destination} without naming a port of the pod: {detail}.",
        "Only troth uses the tunnel: {by_app}.",
    ),
    Reason.RESERVED_PORT: Cause(
        "It dialled port {port} itself, and " + _OWN_PORTS + ".",
        "Connect to the app's port.",
    ),
    Reason.NO_CERTIFICATE_YET: Cause(
        "The proxy of {reporter} had no certificate of its own yet.",
        "Connect again; if that doesn't help, `troth status` says why there is none.",
    ),
    Reason.PEER_VANISHED: Cause(
        "{source} stopped answering on an open connection to port {port} of {destination}, "
        "so the connection was closed: {detail}.",
        "Check that its pod and node run and can be reached, and that nothing between the nodes "
        "drops connections; --keepalive-seconds sets how soon this is noticed.",
    ),
    Reason.APP_UNREACHABLE: Cause(
        "It reached the pod, but nothing took the connection at port {port} of "
        "{destination} at {where}{said}.",
        "{listen}.",
    ),
    Reason.UNREACHABLE: Cause(
        "{destination} takes no connections at port {port}, or can't be reached.",
        "See that it runs and listens there; " + _TRACE + ".",
    ),
    Reason.NO_ENDPOINTS: Cause(
        "{destination} has no ready pod behind port {port}.",
        "{endpoints}.",
    ),
    Reason.NOT_CONFIGURED: Cause(
        "The proxy of {reporter} had no route to port {port} of {destination}.",
        "Check that it has such a port, and connect again; "
        "if that doesn't help, `troth status` says what Envoy refuses.",
    ),
    Reason.TOO_MANY_CONNECTIONS: Cause(
        "{reporter} had as many connections {detail} as one pod may have open at a time.",
        "Find out in `troth events` who keeps so many open, or let each pod of the node have more: "
        "--max-connections-per-pod (node.maxConnectionsPerPod of the chart).",
    ),
    Reason.TOO_MANY_UNPROVED: Cause(
        "{source} came to the tunnel of {destination}, {detail}, more often than an address "
        "without a proven identity may.",
        "Find out what runs at {source_address} and keeps connecting, as only troth uses the "
        "tunnel; {by_app}.",
    ),
    Reason.NODE_OVERLOADED: Cause(
        "The node's Envoy {detail}, so it took none for {reporter}.",
        "Find out in `troth events` which pods of the node have so many, and let each have fewer "
        "(--max-connections-per-pod), or give the node agent more memory or open files.",
    ),
    Reason.OTHER: Cause("Envoy reports: {detail}.", _TRACE + "."),
}


_NOTHING = Cause("", "")


def note(
    totals: Iterable[Total],
    world: World,
    *,
    behind: Callable[[str], Iterable[str]] | None = None,
) -> Iterator[Noted]:
    """Note what was seen by ``world``, which names it and decides what there is to do.

    One after the other: explaining takes its time, and the first may be enough. ``behind`` is as of
    `Explainer`.
    """
    explainer = Explainer(world, behind=behind)
    uncaptured = {pod.workload for pod in world.pods.values() if not pod.captured}
    captured = {pod.workload for pod in world.pods.values()} - uncaptured
    for total in totals:
        in_trouble = total.newest.outcome.is_trouble
        texts = explainer.explain(total) if in_trouble else _NOTHING
        yield Noted(
            total=total,
            destination=explainer.names.destination(total),
            servers=tuple(_servers(total, explainer.names)),
            client_captured=total.source in captured,
            cause=texts.cause,
            remedy=texts.remedy,
            manifests=texts.manifests,
        )


def _servers(total: Total, names: NameIndex) -> Iterator[Endpoint]:
    service = names.service(total)
    if service is None:
        yield Endpoint(total.newest.destination.address, total.port)
        return
    for port in service.ports:
        if port.number == total.port:
            yield from port.endpoints


class Explainer:
    """Explains connections by a world.

    The cause is that of its time. The remedy is for now, considering what has changed since.

    Args:
        world: The current world.
        behind: For a Service, returns the pods it selects, each with why it isn't an endpoint; None
            if unknown.
    """

    def __init__(
        self, world: World, *, behind: Callable[[str], Iterable[str]] | None = None
    ) -> None:
        self._behind = behind
        self.names = NameIndex(world)
        self._world = world
        self._index = PolicyIndex(world.policies, root_namespace=world.root_namespace)
        self._policies = {policy.key: policy for policy in world.policies}

    def explain(self, total: Total) -> Cause:
        """Why a total's connections were refused or failed."""
        words = self._words(total)
        reason = total.newest.reason
        if reason is Reason.BAD_SERVER_NAME and total.port in OWN_PORTS:
            reason = (
                Reason.RESERVED_PORT
            )  # an app of the mesh dialled it, and its proxy asked for it
        texts = TEXTS[reason]
        return Cause(
            texts.cause.format_map(words),
            _capital(texts.remedy.format_map(words)),
            words["manifests"] if reason in _BY_MANIFEST else "",
        )

    def _words(self, total: Total) -> Mapping[str, str]:
        event = total.newest
        source, name = self.names.pod(total.source), self.names.destination(total)
        by_client = event.side is Side.CLIENT
        shower = name if by_client else total.source
        policy, admit, manifests = self._policy(total, source)
        captured = source is not None and source.captured
        return {
            "source": total.source,
            "source_address": event.source.address or total.source,
            "source_name": event.source.workload or "NAMESPACE/WORKLOAD",
            "destination": name,
            "address": event.destination.address,
            "port": str(total.port or event.destination.port),
            "shower": shower,
            "reporter": total.source if by_client else name,
            "claimed": event.claimed_peer or "no SPIFFE ID",
            "detail": event.detail.rstrip(".") or "without a word",
            "said": f": {event.detail}" if event.detail else "",
            "trust_domain": str(self._world.trust_domain),
            "by_app": (
                f"let the app of {total.source} connect to the other app's port in plaintext, as "
                "its proxy makes the tunnel"
                if captured
                else f"{self._join(source, total.source)}, and let the app connect to its port in "
                "plaintext: troth makes the tunnel"
            ),
            "join_shower": self._join(self.names.pod(shower), shower),
            "policy": policy,
            "admit": admit,
            "manifests": manifests,
            "where": _place(event.destination.address),
            "listen": _listen(event.detail, name),
            "endpoints": self._endpoints(name),
            "unlike": "" if captured else ", as port scanners and health checks do",
            "no_handshake": _CUT_SHORT.format(destination=name) if captured else _A_CHECK,
        }

    def _endpoints(self, service: str) -> str:
        """How a Service without endpoints gets some."""
        if self._behind is None:
            return (
                "see that a pod is ready that its selector matches, and that has the port that its "
                "targetPort names"
            )
        if found := tuple(self._behind(service)):
            return (
                f"it selects {'; '.join(found)}. Correct that for one of them: `troth logs` shows "
                "what a container says"
            )
        return "its selector matches no pod: correct it, or the labels of the pods"

    def _join(self, pod: Pod | None, name: str) -> str:
        """What brings a client into the mesh."""
        if pod is None:
            if node := self.names.node(name):
                return (
                    f"{name} is node {node}, whose own processes and host-network pods are outside "
                    "the mesh, so let a pod of the mesh connect"
                )
            return f"nothing known has the address {name}, so let a pod of the mesh connect"
        if self._world.membership(pod).in_mesh:
            if pod.captured:
                return f"{name} is captured now, so let it connect again"
            return f"see in `troth status` why {name} is not captured"
        if pod.labels.get(MESH_LABEL) == "disabled":
            return f"remove the label {MESH_LABEL}: disabled from {name}"
        return f"put namespace {pod.namespace} in the mesh"

    def _policy(self, total: Total, source: Pod | None) -> tuple[str, str, str]:
        """What a policy set, how to fix the connection, and the manifests for that."""
        port = total.port or total.newest.destination.port
        then = total.newest.decided_by or DecidedBy(scope=Scope.DEFAULT)
        past = f"{then.policy or 'the policy in force'} set STRICT at that time"
        destination = self.names.pod(total.destination)
        if destination is None:
            return past, f"nothing to do: {total.destination} is gone", ""
        decision = self._index.decide(destination.namespace, destination.labels, [port])
        mode, now = decision.mode_of(port), decision.decider_of(port)
        if mode is not Mode.STRICT:
            return past, f"nothing to do: port {port} of {total.destination} is {mode} now", ""
        policy = self._present(now, destination, port) if then == now else past
        join = self._join(source, total.source)
        manifests = _either(_labelled(self._world, source), self._exception(now, destination, port))
        if now.scope is Scope.WORKLOAD:
            return policy, f"{join}, or set PERMISSIVE for port {port} in {now.policy}", manifests
        return (
            policy,
            (
                f"{join}, or select {total.destination} by a PeerAuthentication of its own "
                f"that sets PERMISSIVE for port {port}"
            ),
            manifests,
        )

    def _exception(self, now: DecidedBy, destination: Pod, port: int) -> Mapping[str, object]:
        """A policy by which a port accepts plaintext: the existing one, or a new one."""
        policy = self._policies.get(now.policy or "")
        if policy is None or now.scope is not Scope.WORKLOAD:
            _, _, name = destination.workload.partition("/")
            policy = PeerAuthentication(
                namespace=destination.namespace,
                name=f"{name}-mtls",
                selector=stable_labels(destination.labels),
            )
        modes = {**policy.port_modes, port: Mode.PERMISSIVE}
        return msgspec.structs.replace(policy, port_modes=modes).manifest

    def _present(self, decided_by: DecidedBy, destination: Pod, port: int) -> str:
        match decided_by.scope:
            case Scope.MESH:
                reach = "the whole mesh"
            case Scope.NAMESPACE:
                reach = f"namespace {destination.namespace}"
            case _:
                policy = self._policies[decided_by.policy or ""]
                labels = sorted(policy.selector.items())
                reach = ",".join(label_text(key, value) for key, value in labels)
                if port in policy.port_modes:
                    reach = f"port {port} of {reach}"
        return f"{decided_by.policy} sets STRICT for {reach}"


def _place(address: str) -> str:
    return f"its {'IPv6' if ':' in address else 'IPv4'} address {address}"


def _listen(detail: str, destination: str) -> str:
    """How an app gets the connection, given where it listens according to `troth.agent`."""
    if detail.endswith("not on IPv6"):
        return (
            "Let the app listen on :: (both families), or give the Service ipFamilies: [IPv4], "
            "so that its name has no IPv6 address"
        )
    if detail.endswith("not on IPv4"):
        return "Let the app listen on 0.0.0.0, or on :: without IPV6_V6ONLY"
    if detail.endswith("not on the pod's address"):
        return "Let the app listen on 0.0.0.0 or ::, which are all addresses, instead of loopback"
    if detail:
        return (
            f"Start what should listen there (`troth logs {destination}` shows what it says), or "
            "connect to a port that is there"
        )
    return "Connect again: if it fails again, look whether the app listens there at all"


def _labelled(world: World, pod: Pod | None) -> Mapping[str, object]:
    """The Namespace that puts a pod in the mesh; empty if a label isn't enough."""
    if pod is None or world.membership(pod).in_mesh or pod.labels.get(MESH_LABEL) == "disabled":
        return {}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": pod.namespace, "labels": {MESH_LABEL: "enabled"}},
    }


def _either(*manifests: Mapping[str, object]) -> str:
    texts = (
        yaml.safe_dump(each, sort_keys=False, default_flow_style=None, width=_NO_WRAPPING)
        for each in manifests
        if each
    )
    return "---  # or\n".join(texts)


def _capital(text: str) -> str:
    # A name keeps its case, wherever it stands.
    return text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text
