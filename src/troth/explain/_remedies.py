"""Why a connection was refused or failed and what to do about it: one row for each reason.

The words in braces are `names_of` a case. What comes from a peer (identities it claims, Envoy's
words about it) is only ever a value for them, never a text with braces of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from troth.mesh import MESH_LABEL, Pod, Reason, Side, pod_at
from troth.policy import DecidedBy, Mode, PolicyIndex, Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.mesh import Total, World


class Texts(NamedTuple):
    """One sentence each."""

    cause: str
    remedy: str


_TRACE = "`troth trace {source_name} {destination_name}:{port}` shows where it stops"
_OWN_PORTS = "15001, 15006 and 15007 are troth's own ports in every pod"

TEXTS: Mapping[Reason, Texts] = {
    Reason.NONE: Texts("Nothing was refused.", "Nothing to do."),
    Reason.PLAINTEXT_TO_STRICT: Texts("Plaintext, and {policy}.", "{admit}."),
    Reason.NO_CLIENT_CERTIFICATE: Texts(
        "It came to the tunnel of {destination} and showed no certificate.",
        "{join}, and let the app connect to its port in plaintext: troth makes the tunnel.",
    ),
    Reason.WRONG_CLIENT_IDENTITY: Texts(
        "{source} showed a certificate for {claimed}, "
        "which is no identity of trust domain {trust_domain}.",
        "Run both ends in one trust domain (`troth up --trust-domain`), "
        "or find out who gave it this certificate.",
    ),
    Reason.WRONG_SERVER_IDENTITY: Texts(
        "{address}:{port} answered with a certificate for {claimed}, "
        "which is not that of {destination}.",
        "Find out who answers there and by which service account it runs; "
        "if its pod was being replaced at that moment, connect again.",
    ),
    Reason.UNKNOWN_AUTHORITY: Texts(
        "{shower} showed a certificate ({claimed}) that no CA of the mesh has signed.",
        "Let troth issue its certificate: {join_shower}.",
    ),
    Reason.CERTIFICATE_EXPIRED: Texts(
        "{shower} showed a certificate ({claimed}) that had expired.",
        "Certificates of the mesh are renewed long before: see in `troth status` "
        "why this one was not, and compare both clocks.",
    ),
    Reason.CERTIFICATE_NOT_YET_VALID: Texts(
        "{shower} showed a certificate ({claimed}) that was not valid yet.",
        "Compare the clocks of both ends and of the CA.",
    ),
    Reason.CERTIFICATE_INVALID: Texts(
        "{shower} showed a certificate ({claimed}) that does not verify: {detail}.",
        "Let troth issue its certificate: {join_shower}.",
    ),
    Reason.REFUSED_BY_PEER: Texts(
        "{shower} broke the handshake off: {detail}.",
        "The other end's own report says why: `troth events`. " + _TRACE + ".",
    ),
    Reason.TLS_PARAMETERS: Texts(
        "The two ends share no TLS version, cipher suite, group or application protocol.",
        "The tunnel is TLS 1.3 with ALPN troth, between pods of the mesh: {join}.",
    ),
    Reason.NOT_TLS: Texts(
        "It spoke something other than TLS to the tunnel of {destination}.",
        "Connect to the app's port; " + _OWN_PORTS + ".",
    ),
    Reason.NO_HANDSHAKE: Texts(
        "It came to the tunnel of {destination} and left without a handshake, "
        "as port scanners and health checks do.",
        "Let the check connect to the app's port; " + _OWN_PORTS + ".",
    ),
    Reason.HANDSHAKE_FAILED: Texts("The TLS handshake failed: {detail}.", _TRACE + "."),
    Reason.BAD_SERVER_NAME: Texts(
        "It came to the tunnel of {destination} and asked for no port of the pod: {detail}.",
        "Only troth uses the tunnel: {join}, and let the app connect to its port in plaintext.",
    ),
    Reason.RESERVED_PORT: Texts(
        "It dialled port {port} itself, and " + _OWN_PORTS + ".",
        "Connect to the app's port.",
    ),
    Reason.NO_CERTIFICATE_YET: Texts(
        "The proxy of {reporter} had no certificate of its own yet.",
        "Connect again; if it stays, `troth status` says why there is none.",
    ),
    Reason.APP_UNREACHABLE: Texts(
        "It was let in, but nothing took the connection at port {port} of {destination}.",
        "Start the app, and let it listen at the pod's address (0.0.0.0 or ::), "
        "not at 127.0.0.1 alone.",
    ),
    Reason.UNREACHABLE: Texts(
        "{destination} takes no connections at port {port}, or there is no way to it.",
        "See that it runs and listens there; " + _TRACE + ".",
    ),
    Reason.NO_ENDPOINTS: Texts(
        "{destination} has no ready pod behind port {port}.",
        "Make a pod ready that its selector matches: `troth status` shows them.",
    ),
    Reason.NOT_CONFIGURED: Texts(
        "The proxy of {reporter} knew no way to port {port} of {destination}.",
        "See that it has such a port, and connect again; "
        "if it stays, `troth status` says what Envoy refuses.",
    ),
    Reason.OTHER: Texts("Envoy reports: {detail}.", _TRACE + "."),
}


def explained(total: Total, world: World) -> Texts:
    """Cause and remedy of what a total counts.

    The cause is that of its time. The remedy is for now: what has changed since is taken in.
    """
    names = names_of(total, world)
    texts = TEXTS[total.newest.reason]
    return Texts(texts.cause.format_map(names), _capital(texts.remedy.format_map(names)))


def names_of(total: Total, world: World) -> Mapping[str, str]:
    """The words for a case."""
    event = total.newest
    source = _find(world, total.source)
    destination = _find(world, total.destination)
    by_client = event.side is Side.CLIENT
    shower = destination if by_client else source
    name = service_name(world, total)
    policy, admit = _policy(total, world, source, destination)
    return {
        "source": total.source,
        "source_name": event.source.workload or "NAMESPACE/WORKLOAD",
        "destination": name,
        "destination_name": name,
        "address": event.destination.address,
        "port": str(total.port or event.destination.port),
        "shower": name if by_client else total.source,
        "reporter": total.source if by_client else name,
        "claimed": event.claimed_peer or "no SPIFFE ID",
        "detail": event.detail.rstrip(".") or "without a word",
        "trust_domain": str(world.trust_domain),
        "join": _join(world, source, total.source),
        "join_shower": _join(world, shower, name if by_client else total.source),
        "policy": policy,
        "admit": admit,
    }


def service_name(world: World, total: Total) -> str:
    """The destination, by its service's name where the client dialled a virtual IP."""
    address = total.newest.destination.address
    for key, service in world.services.items():
        if address in service.cluster_ips:
            return key
    return total.destination


def _find(world: World, workload: str) -> Pod | None:
    """One pod of a workload, or the pod that has the address."""
    for pod in world.pods.values():
        if pod.workload == workload:
            return pod
    return pod_at(world, workload)


def _join(world: World, pod: Pod | None, name: str) -> str:
    """What brings a client into the mesh."""
    if pod is None:
        return f"nothing known has the address {name}, so let a pod of the mesh connect"
    if world.membership(pod).in_mesh:
        if pod.captured:
            return f"{name} is captured now, so let it connect again"
        return f"see in `troth status` why {name} is not captured"
    if pod.labels.get(MESH_LABEL) == "disabled":
        return f"remove the label {MESH_LABEL}: disabled from {name}"
    return f"put namespace {pod.namespace} in the mesh"


def _policy(
    total: Total, world: World, source: Pod | None, destination: Pod | None
) -> tuple[str, str]:
    """What a policy said, and how to come to terms with it."""
    event, port = total.newest, total.port or total.newest.destination.port
    decided_by = event.decided_by or DecidedBy(scope=Scope.DEFAULT)
    if destination is None:
        return (
            f"{_past(decided_by)} STRICT at that time",
            f"nothing to do: {total.destination} is gone",
        )
    index = PolicyIndex(world.policies, root_namespace=world.root_namespace)
    now = index.decide(destination.namespace, destination.labels, [port])
    if now.mode_of(port) is not Mode.STRICT:
        return (
            f"{_past(decided_by)} STRICT at that time",
            f"nothing to do: port {port} of {total.destination} is {now.mode_of(port)} now",
        )
    join = _join(world, source, total.source)
    if decided_by != now.decider_of(port):
        policy = f"{_past(decided_by)} STRICT at that time"
    else:
        policy = _present(world, decided_by, destination, port)
    if decided_by.scope is Scope.WORKLOAD:
        return policy, f"{join}, or set PERMISSIVE for port {port} in {now.decider_of(port).policy}"
    return policy, (
        f"{join}, or select {total.destination} by a PeerAuthentication of its own "
        f"that sets PERMISSIVE for port {port}"
    )


def _past(decided_by: DecidedBy) -> str:
    return f"{decided_by.policy or 'the policy in force'} set"


def _present(world: World, decided_by: DecidedBy, destination: Pod, port: int) -> str:
    match decided_by.scope:
        case Scope.MESH:
            reach = "the whole mesh"
        case Scope.NAMESPACE:
            reach = f"namespace {destination.namespace}"
        case _:
            found = next((each for each in world.policies if each.key == decided_by.policy), None)
            labels = found.selector if found else destination.labels
            reach = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
            if found and port in found.port_modes:
                reach = f"port {port} of {reach}"
    return f"{decided_by.policy} sets STRICT for {reach}"


def _capital(text: str) -> str:
    # A name keeps its case, wherever it stands.
    return text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text
