"""The pods that the load runs in, with troth between some and other proxies between others.

All of them are pods of one `troth up`: same namespaces, same links, and the same nftables rules in
every pair that is captured, by troth or by us. The pods of pair ``direct`` have nothing in between.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.e2e.harness import Host, Mesh, eventually
from tests.e2e.manifests import Object, document, namespace, policy

from benchmarks.data_plane import load, proc
from benchmarks.data_plane.certificates import write_certificates
from benchmarks.data_plane.contenders import APP_PORT, NAMES, contenders
from benchmarks.rig.process import cpu_seconds, memory
from troth.agent.capture import capture_rules
from troth.mesh.ports import ENVOY_MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from benchmarks.data_plane.contenders import Contender

DIRECT, TROTH = "direct", "troth"
PATHS = (DIRECT, TROTH, *NAMES)

_PROXY_UID = 1337
_APPLY = 'rules=$1; shift; for netns; do nsenter --net="$netns" -- nft -f "$rules"; done'
_HOLDER = Path(__file__).with_name("hold.py")


class Rig:
    """A machine with a pair of pods for each of `PATHS`."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.files = Path(tempfile.mkdtemp(prefix="troth-bench-"))
            stack.callback(shutil.rmtree, self.files, ignore_errors=True)
            self.files.chmod(0o755)
            self._write_files()
            started: list[subprocess.Popen[bytes]] = []
            # Below the host on the stack: they end with it.
            stack.callback(lambda: [process.wait() for process in started])
            host = stack.enter_context(Host())
            self.mesh = stack.enter_context(Mesh(host, {"mesh.yaml": self._manifests()}))
            pods = {f"{pod['namespace']}/{pod['name']}": pod for pod in self.mesh.status()["pods"]}
            addresses = {name: pods[f"{name}/server"]["addresses"][0] for name in PATHS}
            self._urls = {
                name: f"http://{'server' if name == TROTH else addresses[name]}:{APP_PORT}"
                for name in PATHS
            }
            for contender in contenders(self.files, addresses):
                started += self._start(contender)
            self._capture([pod["uid"] for pod in pods.values() if pod["namespace"] in NAMES])
            for name in PATHS:
                eventually(lambda name=name: self._answers(name), what=f"an answer over {name}")  # type: ignore[misc]  # mypy can't type defaults
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def closed_loop(
        self,
        name: str,
        target: str = load.SMALL,
        *,
        connections: int,
        seconds: float,
        close: bool = False,
    ) -> load.Outcome:
        """Put load on a path, as `load.closed_loop` does."""
        command = load.closed_loop(
            self.files,
            self._urls[name] + target,
            connections=connections,
            seconds=seconds,
            close=close,
        )
        return load.parse_closed_loop(self._in_client(name, *command))

    def fixed_rate(
        self, name: str, *, connections: int, seconds: float, rate: float
    ) -> list[float]:
        """Put load on a path, as `load.fixed_rate` does; times in microseconds."""
        log = self.files / "requests.log"
        log.unlink(missing_ok=True)
        command = load.fixed_rate(
            log, self._urls[name] + load.SMALL, connections=connections, seconds=seconds, rate=rate
        )
        self._in_client(name, *command)
        return load.parse_fixed_rate(log.read_text().splitlines())

    def memory_with(self, name: str, connections: int) -> float:
        """MB (10^6 bytes, PSS) of a path's proxies while so many idle connections are open."""
        host = self._urls[name].removeprefix("http://").rpartition(":")[0]
        with self.mesh.start(
            f"{name}/client",
            *("python3", "-I", str(_HOLDER), host, str(APP_PORT), str(connections)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder:
            if holder.stdout is None or not holder.stdout.readline():
                raise RuntimeError(f"{connections} connections over {name} can't be held")
            return sum(memory(pid).pss_mb for pid in self.proxies[name])

    def cpu_seconds(self, name: str) -> float:
        """CPU time that a path's proxies have used."""
        return sum(cpu_seconds(pid) for pid in self.proxies[name])

    @cached_property
    def proxies(self) -> dict[str, list[int]]:
        """The processes that are between the pods of each pair.

        With troth that is Envoy and the agent, which reads what Envoy says about connections.
        """
        envoys = proc.processes("envoy", str(self.mesh.state))
        found = {DIRECT: [], TROTH: [*envoys, proc.parent(envoys[0])]}
        for name in NAMES:
            program = name.partition("-")[0]
            found[name] = proc.processes(program, f"{self.files}/{name}-")
        return found

    def _in_client(self, name: str, *command: str) -> str:
        result = self.mesh.exec(f"{name}/client", *command)
        if result.returncode:
            raise RuntimeError(f"{command} over {name}: {result.stderr or result.stdout}")
        return result.stdout

    def _answers(self, name: str) -> bool:
        return self.mesh.fetch(f"{name}/client", self._urls[name]) is not None

    def _start(self, contender: Contender) -> Iterator[subprocess.Popen[bytes]]:
        for side, config in (("client", contender.client), ("server", contender.server)):
            path = self.files / f"{contender.name}-{side}.conf"
            path.write_text(config)
            yield self.mesh.start(
                f"{contender.name}/{side}",
                *("env", "--chdir=/", "setpriv", f"--reuid={_PROXY_UID}", "--clear-groups", "--"),
                *(word.format(path) for word in contender.command),
            )

    def _capture(self, pods: Iterable[str]) -> None:
        """Lead the pods' traffic to the proxies beside them, as troth does with its own."""
        rules = capture_rules()
        own = f"meta mark {ENVOY_MARK:#x} return"
        if own not in rules:
            raise RuntimeError("troth's rules no longer say how Envoy's sockets are known")
        ruleset = self.files / "rules.nft"
        ruleset.write_text(rules.replace(own, f"meta skuid {_PROXY_UID} return"))
        spaces = (str(self.mesh.state / "netns" / uid) for uid in pods)
        self.mesh.on_node("sh", "-ec", _APPLY, "sh", str(ruleset), *spaces)

    def _write_files(self) -> None:
        write_certificates(self.files)
        load.prepare(self.files)
        with (self.files / "big").open("wb") as big:
            big.truncate(load.BIG_BYTES)
        for path in (self.files, *self.files.iterdir()):
            shutil.chown(path, _PROXY_UID, _PROXY_UID)
        for name in PATHS:
            (self.files / f"app-{name}.conf").write_text(_app(self.files, name))

    def _manifests(self) -> str:
        objects = [policy(f"{TROTH}/default", "STRICT")]
        for name in PATHS:
            objects += [
                namespace(name, mesh=name == TROTH),
                _pod(f"{name}/client", "sleep", "infinity"),
                _pod(f"{name}/server", "nginx", "-c", str(self.files / f"app-{name}.conf")),
                _service(f"{name}/server"),
            ]
        return document(objects)


def _pod(name: str, *command: str) -> Object:
    space, _, own = name.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": space, "name": own, "labels": {"app": own}},
        "spec": {
            "containers": [
                {
                    "name": own,
                    "image": "none",
                    "command": list(command),
                    "ports": [{"containerPort": APP_PORT}],
                }
            ]
        },
    }


def _service(name: str) -> Object:
    space, _, own = name.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": space, "name": own},
        "spec": {"selector": {"app": own}, "ports": [{"port": APP_PORT}]},
    }


def _app(files: Path, name: str) -> str:
    temporary = "".join(
        f"{kind}_temp_path {files}/temporary; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off; worker_processes 1; pid {files}/app-{name}.pid; error_log stderr crit;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; {temporary}
  keepalive_requests 1000000000; keepalive_timeout 1h;
  server {{
    listen {APP_PORT} backlog=8192;
    location = {load.SMALL} {{ return 200 "An answer of the size that small ones have.\\n"; }}
    location = {load.BIG} {{ root {files}; }}
  }}
}}
"""
