"""Finds pods' network namespaces by asking the node's container runtime (the CRI).

It is asked only where an administrator gives its socket, because that socket gives control of the
whole node. Processes' cgroups tell the same of nearly all pods; the exceptions are pods without
processes on the node, such as ones in virtual machines.

The answers are the same from containerd and CRI-O as far as they are used: ``info`` is an object
with the sandbox's first process and its runtime-spec, in the JSON of a verbose status.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio
import msgspec
import structlog
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from troth.agent import netns
from troth.agent.pod_namespaces import node_namespaces
from troth.errors import PeerError, TrothError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from troth.agent.pod_namespaces import Finder
    from troth.mesh.model import Pod

_log = structlog.get_logger(__name__)

_SERVICE = "/runtime.v1.RuntimeService"
_ANSWER_SECONDS = 5.0

_LONGEST_ANSWER = 16 * 2**20
"""Bytes: the kubelet's own limit. gRPC's 4 MB are too few for a node with many pods and labels."""

_OPTIONS = (
    # Otherwise it is the socket's path with its slashes encoded, which servers in Go refuse.
    ("grpc.default_authority", "localhost"),
    ("grpc.max_receive_message_length", _LONGEST_ANSWER),
)


# The few messages that are needed (``runtime.v1`` of k8s.io/cri-api), made at run time. Fields that
# troth doesn't look at are left out: protobuf passes over what it doesn't know. Enums are declared
# as the integers, and maps as the lists of pairs, that they are on the wire.
_PACKAGE = "runtime.v1"
_REPEATED = "repeated "

Fields: TypeAlias = tuple[tuple[str, str, int], ...]
"""A message's fields: name, kind and number of each."""

_MESSAGES: dict[str, Fields] = {
    "PodSandboxStateValue": (("state", "int32", 1),),
    "PodSandboxFilter": (("state", "PodSandboxStateValue", 2),),
    "ListPodSandboxRequest": (("filter", "PodSandboxFilter", 1),),
    "PodSandboxMetadata": (("name", "string", 1), ("uid", "string", 2), ("namespace", "string", 3)),
    "PodSandbox": (("id", "string", 1), ("metadata", "PodSandboxMetadata", 2)),
    "ListPodSandboxResponse": (("items", "repeated PodSandbox", 1),),
    "PodSandboxStatusRequest": (("pod_sandbox_id", "string", 1), ("verbose", "bool", 2)),
    "Pair": (("key", "string", 1), ("value", "string", 2)),
    "PodSandboxStatusResponse": (("info", "repeated Pair", 2),),
}

SANDBOX_READY = 0
"""Of the enum PodSandboxState."""


def message_classes(more: Mapping[str, Fields] | None = None) -> dict[str, Any]:
    """Classes of all messages, by name; ``more`` are further ones that may refer to them."""
    messages = {**_MESSAGES, **(more or {})}
    file = descriptor_pb2.FileDescriptorProto(
        name="troth/cri.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, words, number in fields:
            kind = words.removeprefix(_REPEATED)
            label = "LABEL_REPEATED" if words != kind else "LABEL_OPTIONAL"
            made = message.field.add(name=field, number=number, label=label)
            if kind in messages:
                made.type, made.type_name = made.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                made.type = getattr(made, f"TYPE_{kind.upper()}")
    # A pool of its own: nobody else's idea of these messages gets in the way.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in messages
    }


_CLASSES = message_classes()
ListPodSandboxRequest: Any = _CLASSES["ListPodSandboxRequest"]
PodSandboxStatusRequest: Any = _CLASSES["PodSandboxStatusRequest"]
RESPONSES: Mapping[str, Any] = {
    method: _CLASSES[f"{method}Response"] for method in ("ListPodSandbox", "PodSandboxStatus")
}


class _Namespace(msgspec.Struct, frozen=True):
    type: str
    path: str = ""


class _Linux(msgspec.Struct, frozen=True):
    namespaces: list[_Namespace] | None = None


class _RuntimeSpec(msgspec.Struct, frozen=True):
    linux: _Linux | None = None


class SandboxInfo(msgspec.Struct, frozen=True, rename="camel"):
    """What a verbose status says of a sandbox (``info``).

    Attributes:
        pid: Its first process; 0 if it has none.
        runtime_spec: The OCI runtime-spec that it was made from.
    """

    pid: int = 0
    runtime_spec: _RuntimeSpec | None = None

    def places(self, proc: Path = Path("/proc")) -> Iterator[Path]:
        """Where its network namespace may be seen from here."""
        linux = self.runtime_spec.linux if self.runtime_spec else None
        for namespace in (linux.namespaces if linux else None) or ():
            path = PurePosixPath(namespace.path)
            if namespace.type == "network" and path.is_absolute() and ".." not in path.parts:
                # /var/run is an absolute link on most machines, which would lead out of the root.
                parts = path.parts[2:] if path.is_relative_to("/var/run") else path.parts[1:]
                yield (proc / "1" / "root").joinpath(*parts)
        if self.pid > 0:
            yield proc / str(self.pid) / "ns" / "net"


class RuntimeFinder:
    """Asks the container runtime, and another finder for the pods that it doesn't know.

    Args:
        socket: The runtime's, such as ``/run/containerd/containerd.sock``.
        otherwise: Who else to ask.
        on_change: Called when `trouble` has changed.
        proc: Where the node's processes are seen.
    """

    def __init__(
        self,
        socket: Path,
        *,
        otherwise: Finder,
        on_change: Callable[[], None],
        proc: Path = Path("/proc"),
    ) -> None:
        self._socket = socket
        self._otherwise = otherwise
        self._on_change = on_change
        self._proc = proc
        self.trouble = ""
        """Why the runtime can't be asked; empty while it can."""

    async def __call__(self, pods: Collection[Pod]) -> Mapping[str, Collection[Path]]:
        """What may be the pods' network namespaces, by UID: a `Finder`."""
        found: dict[str, Collection[Path]] = {}
        if pods:
            try:
                found = await self._ask({pod.kubelet_uid or pod.uid: pod.uid for pod in pods})
            except TrothError as error:
                self._note(str(error))
            else:
                self._note("")
        others = [pod for pod in pods if pod.uid not in found]
        return {**found, **(await self._otherwise(others) if others else {})}

    async def _ask(self, uids: Mapping[str, str]) -> dict[str, Collection[Path]]:
        """Args: uids: The pods' UIDs in the API by those that the kubelet calls them by."""
        never = node_namespaces(self._proc)
        found: dict[str, dict[int, Path]] = {}
        async with grpc.aio.insecure_channel(f"unix:{self._socket}", options=_OPTIONS) as channel:
            ready = ListPodSandboxRequest(filter={"state": {"state": SANDBOX_READY}})
            for sandbox in (await self._call(channel, "ListPodSandbox", ready)).items:
                uid = uids.get(sandbox.metadata.uid)
                if uid is None:
                    continue
                which = PodSandboxStatusRequest(pod_sandbox_id=sandbox.id, verbose=True)
                status = await self._call(channel, "PodSandboxStatus", which)
                for place, inode in self._visible(_sandbox_info(status)):
                    if inode not in never:
                        found.setdefault(uid, {}).setdefault(inode, place)
        return {uid: tuple(places.values()) for uid, places in found.items()}

    def _visible(self, info: SandboxInfo) -> Iterator[tuple[Path, int]]:
        for place in info.places(self._proc):
            try:
                yield place, netns.inode(place)
            except TrothError:
                continue  # not there, or not in sight

    async def _call(self, channel: grpc.aio.Channel, method: str, request: Any) -> Any:
        call = channel.unary_unary(
            f"{_SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=RESPONSES[method].FromString,
        )
        try:
            return await call(request, timeout=_ANSWER_SECONDS)
        except grpc.aio.AioRpcError as error:
            reason = f"{method}: {error.code().name}: {error.details()}"
            raise PeerError(f"container runtime at {self._socket}", reason) from error

    def _note(self, trouble: str) -> None:
        if trouble == self.trouble:
            return
        self.trouble = trouble
        if trouble:
            _log.warning("pods are found by their cgroups", reason=trouble)
        else:
            _log.info("pods are found by the container runtime again")
        self._on_change()


def _sandbox_info(status: Any) -> SandboxInfo:
    """What it says of interest; nothing if it says it in another way."""
    for pair in status.info:
        if pair.key == "info":
            try:
                return msgspec.json.decode(pair.value, type=SandboxInfo)
            except msgspec.DecodeError:
                break
    return SandboxInfo()
