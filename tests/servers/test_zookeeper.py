"""ZooKeeper: three peers that elect a leader, and another when it dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.harness import eventually
from tests.servers.manifests import headless, image, pod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.manifests import Object
    from tests.servers.places import Place

ZOOS = ("zoo-0", "zoo-1", "zoo-2")

_JAVA = (
    "exec /usr/lib/jvm/default-java/bin/java -Xmx64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
    " -cp '/usr/share/java/*'"
)
_ZOOKEEPER = f"""
mkdir -p /data/zoo
echo ${{HOSTNAME#zoo-}} >/data/zoo/myid
cat >/data/zoo.cfg <<END
dataDir=/data/zoo
clientPort=2181
tickTime=500
initLimit=40
syncLimit=20
admin.enableServer=false
4lw.commands.whitelist=srvr
server.0=zoo-0.zoo:2888:3888
server.1=zoo-1.zoo:2888:3888
server.2=zoo-2.zoo:2888:3888
END
{_JAVA} org.apache.zookeeper.server.quorum.QuorumPeerMain /data/zoo.cfg
"""
_SHELL = f"{_JAVA} org.apache.zookeeper.ZooKeeperMain -server"


def objects(namespace: str) -> Iterator[Object]:
    java = [folder.name for folder in (image() / "etc").glob("java-*-openjdk")]
    for name in ZOOS:
        labels = {"group": "zoo"}
        yield pod(f"{namespace}/{name}", _ZOOKEEPER, 2181, subdomain="zoo", etc=java, labels=labels)
    yield headless(f"{namespace}/zoo", 2181, labels={"group": "zoo"})


def zookeeper_says(place: Place, name: str) -> dict[str, str]:
    """What a ZooKeeper server says of itself, if it answers."""
    done = place.attempt("python3", "-I", "-c", _SRVR, f"{name}.zoo.{place.servers}")
    return dict(line.split(": ", 1) for line in done.out.splitlines() if ": " in line)


# The answer's last line is the count of nodes; the server doesn't close the connection after it.
_SRVR = """
import socket, sys
with socket.create_connection((sys.argv[1], 2181), timeout=10) as connection:
    connection.sendall(b"srvr")
    answer = b""
    while b"Node count" not in answer and (piece := connection.recv(4096)):
        answer += piece
print(answer.decode())
"""


def zookeeper_leader(place: Place, *, among: tuple[str, ...] = ZOOS) -> str:
    """The leader, once all of these follow one."""

    def find() -> str:
        modes = {name: zookeeper_says(place, name).get("Mode") for name in among}
        leaders = [name for name, mode in modes.items() if mode == "leader"]
        return leaders[0] if len(leaders) == 1 and None not in modes.values() else ""

    return eventually(find, what=f"a leader of {among}")


def test_zookeeper_elects_another_leader_when_one_dies(home: Place) -> None:
    old = zookeeper_leader(home)
    others = tuple(name for name in ZOOS if name != old)
    host = f"{others[0]}.zoo.{home.servers}:2181"
    with home.session("bash", "-c", f"{_SHELL} {host}") as shell:
        shell.ask(f"create /{home.mode}-{home.servers} before", "Created")
        with home.crashed(old):
            assert zookeeper_leader(home, among=others) in others
            # What was connected to the other server has a new leader, and the same data.
            shell.ask(f"get /{home.mode}-{home.servers}", "before")
            shell.say(f"set /{home.mode}-{home.servers} after")  # prints nothing
        assert zookeeper_leader(home) in others
        shell.ask(f"get /{home.mode}-{home.servers}", "after")
        shell.say(f"delete /{home.mode}-{home.servers}")
        shell.ask("ls /", "[zookeeper]")


def test_zookeeper_s_sessions_and_leader_outlive_changes_of_mode(inside: Place) -> None:
    leader = zookeeper_leader(inside)
    with inside.session("bash", "-c", f"{_SHELL} zoo-0.zoo:2181") as shell:
        shell.ask("create -e /alive yes", "Created")
        epoch = zookeeper_says(inside, leader)["Zxid"][:-8]
        for mode in inside.changes():
            shell.ask(f"create /{mode} x", f"Created /{mode}")
            shell.say(f"delete /{mode}")
            shell.ask("get /alive", "yes")
            assert zookeeper_says(inside, "zoo-2")["Mode"]
    assert zookeeper_leader(inside) == leader
    assert zookeeper_says(inside, leader)["Zxid"][:-8] == epoch, "it was elected once more"
