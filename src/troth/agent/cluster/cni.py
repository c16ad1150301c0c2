"""The socket by which the CNI plugin (``cni/``) asks the agent about sandboxes.

A question is one message (``SOCK_SEQPACKET``) of JSON, with a descriptor of the sandbox's network
namespace beside it (``SCM_RIGHTS``); the answer is another. Plugins and agents of different
versions meet here: what one doesn't know in a message it passes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal, Self

import msgspec
import structlog

from troth.errors import EnvironmentLackError, TrothError
from troth.unix_sockets import Peer, is_our_user, private_umask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

_log = structlog.get_logger(__name__)

_VERSION = 1
_LONGEST_QUESTION = 64 * 1024
_LONGEST_SECONDS = 60.0
_QUESTION_SECONDS = 5.0
_MOST_AT_ONCE = 512
_MOST_ADDRESSES = 64
_LONGEST_NAME = 253


class PodName(msgspec.Struct, frozen=True):
    """Whom a sandbox is for, by the container runtime's word.

    Attributes:
        uid: As its kubelet has it.
    """

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class CniQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What the plugin asks.

    Attributes:
        command: CNI's: ADD, CHECK or DEL.
        sandbox: The sandbox's ID (``CNI_CONTAINERID``).
        addresses: What the network has given the pod; in canonical form.
        seconds: How long the answer may take.
    """

    version: int
    command: Literal["ADD", "CHECK", "DEL"]
    sandbox: str
    pod: PodName
    addresses: tuple[str, ...] = ()
    seconds: float = 0.0

    @classmethod
    def parse(cls, message: bytes) -> Self:
        """Read one.

        Raises:
            ValueError: It is none, or has something in it that can't be.
        """
        sent = msgspec.json.decode(message, type=cls)
        names = (sent.sandbox, sent.pod.namespace, sent.pod.name, sent.pod.uid)
        if not all(0 < len(each) <= _LONGEST_NAME and each.isprintable() for each in names):
            raise ValueError("the sandbox or the pod has a name that can't be")
        if len(sent.addresses) > _MOST_ADDRESSES:
            raise ValueError("the pod has too many addresses")
        return msgspec.structs.replace(
            sent,
            addresses=tuple(str(ip_address(each)) for each in sent.addresses),
            seconds=min(max(sent.seconds, 0.0), _LONGEST_SECONDS),
        )


class CniVerdict(msgspec.Struct, frozen=True):
    """The answer.

    Attributes:
        verdict: The pod is captured; it is out of the mesh; it isn't known whether it is; it is in
            the mesh and can't be captured; or, to DEL, that it was heard.
        why: In words.
    """

    verdict: Literal["captured", "out", "unknown", "refused", "noted"]
    why: str = ""


class PluginSocket:
    """Answers the plugin.

    Args:
        path: The socket; its directory must be root's alone to write to.
        answer: Called with each question and a descriptor of the network namespace, if there is
            one. The callee must copy it to keep it.
    """

    def __init__(
        self, path: Path, answer: Callable[[CniQuestion, int | None], Awaitable[CniVerdict]]
    ) -> None:
        self._path = path
        self._answer = answer

    async def serve(self) -> None:
        """Answer until cancelled. A plugin without an answer by then asks the next agent.

        Raises:
            EnvironmentLackError: There can't be a socket.
        """
        # A name of its own first: what is at the path meanwhile goes on until it is replaced.
        made = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            try:
                made.unlink(missing_ok=True)
                with private_umask():
                    listener.bind(str(made))
                listener.listen(_MOST_AT_ONCE)
                listener.setblocking(False)
                ours = made.stat().st_ino
                made.rename(self._path)
            except OSError as error:
                raise EnvironmentLackError(
                    f"{self._path} can't be a socket for the CNI plugin: {error.strerror}",
                    "choose another directory with --run-dir",
                ) from error
            try:
                await self._accept(listener)
            finally:
                with contextlib.suppress(OSError):
                    if self._path.stat().st_ino == ours:
                        self._path.unlink()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(_MOST_AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await room.acquire()
                connection, _ = await loop.sock_accept(listener)
                task = tasks.create_task(self._converse(connection))
                task.add_done_callback(lambda _: room.release())

    async def _converse(self, connection: socket.socket) -> None:
        with connection:
            peer = Peer.of(connection)
            if not is_our_user(peer):
                _log.error("a stranger spoke as the CNI plugin", pid=peer.pid, uid=peer.uid)
                return
            try:
                async with asyncio.timeout(_QUESTION_SECONDS):
                    await _readable(connection)
                message, descriptors, truncated, _ = socket.recv_fds(
                    connection, _LONGEST_QUESTION, 2, socket.MSG_CMSG_CLOEXEC
                )
            except (TimeoutError, OSError):
                return
            try:
                verdict = await self._judge(message, descriptors, truncated=bool(truncated & _CUT))
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            with contextlib.suppress(OSError):  # it doesn't wait any more
                connection.send(msgspec.json.encode(verdict))

    async def _judge(
        self, message: bytes, descriptors: list[int], *, truncated: bool
    ) -> CniVerdict:
        try:
            question = CniQuestion.parse(message)
        except ValueError as error:
            return CniVerdict("unknown", f"the agent can't read the question: {error}")
        if question.version != _VERSION:
            return CniVerdict("unknown", f"the agent doesn't know version {question.version}")
        wanted = 0 if question.command == "DEL" else 1
        if truncated or len(descriptors) != wanted:
            return CniVerdict("unknown", f"{len(descriptors)} descriptors came with the question")
        try:
            return await self._answer(question, descriptors[0] if descriptors else None)
        except TrothError as error:
            return CniVerdict("unknown", str(error))


_CUT = socket.MSG_TRUNC | socket.MSG_CTRUNC


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def note() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connection, note)
    try:
        await readable
    finally:
        loop.remove_reader(connection)
