"""Runs functions of a test module, each in namespaces of its own: see ``conftest.py``.

Usage: ``node_namespace.py FILE``. Each line of standard input is a JSON array of a path for the
output, the function's name and its arguments; its exit code is printed when it has ended. The
module is imported once: each function runs in a fork of the process that has imported it.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import inspect
import json
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import ModuleType

# linux/sched.h, linux/mount.h, linux/prctl.h
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_CLONE_NEWPID, _CLONE_NEWNET = 0x20000000, 0x40000000
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def imported(file: str) -> ModuleType:
    warnings.simplefilter("error")
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(module: ModuleType, output: str, name: str, *arguments: str) -> int:
    """Run a function of the module as the first process of new namespaces; its exit code."""
    child = os.fork()
    if child == 0:
        with _ending():
            _die_with_parent()
            written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (written, 1)):
                os.dup2(descriptor, target)
            os.dup2(written, 2)
            _unshare()
            first = os.fork()
            if first == 0:
                with _ending():
                    _die_with_parent()
                    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
                    _mount("proc", "/proc", "proc", 0)
                    _call(module, name, *arguments)
            os._exit(_exit_code(first))
    return _exit_code(child)


def _call(module: ModuleType, name: str, *arguments: str) -> None:
    positional = [Path(value) if value.startswith("/") else value for value in arguments]
    result = getattr(module, name)(*positional)
    if inspect.iscoroutine(result):
        asyncio.run(result)


class _ending:  # noqa: N801 - a context like those of contextlib
    """The end of this process: 0 after the block, 1 if it raised something."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> NoReturn:
        if kind is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0 if kind is None else 1)


def _exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _unshare() -> None:
    user, group = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | (_CLONE_NEWUSER if user else 0)
    _check(_libc.unshare(flags))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    words = [None if each is None else each.encode() for each in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), None))


def _die_with_parent() -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)))


def _check(result: int) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> None:
    module = imported(sys.argv[1])
    while line := sys.stdin.readline():
        code = run(module, *json.loads(line))
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
