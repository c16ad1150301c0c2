"""Redis: replication, Sentinel and Cluster, which tell others the addresses that they see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.harness import eventually
from tests.servers.manifests import headless, pod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.manifests import Object
    from tests.servers.places import Place

_SERVER = "exec redis-server --protected-mode no --save '' --dir /data"
# It asks Sentinel whose replica it is. One that starts with what it knew before may follow another
# replica, until Sentinel notices after some ten seconds and has it connect again.
_REPLICATED = f"""
first=redis-0.redis
master=$(timeout 2 redis-cli -h sentinel-0.sentinel -p 26379 \\
  sentinel get-master-addr-by-name main | head -n 1)
master=${{master:-$first}}
if [[ $master == "$POD_IP" || $master == "$HOSTNAME.redis" ]]; then master="no one"
else master="$master 6379"; fi
{_SERVER} --repl-diskless-sync-delay 0 --replicaof $master
"""
_SENTINEL = """
cat >/data/sentinel.conf <<END
protected-mode no
sentinel resolve-hostnames yes
sentinel monitor main redis-0.redis 6379 2
sentinel down-after-milliseconds main 2000
sentinel failover-timeout main 6000
END
exec redis-server /data/sentinel.conf --sentinel
"""
_CLUSTER = f"{_SERVER} --cluster-enabled yes --cluster-node-timeout 2000"

REDIS = ("redis-0", "redis-1", "redis-2")
SENTINELS = ("sentinel-0", "sentinel-1", "sentinel-2")
NODES = ("shard-0", "shard-1", "shard-2")


def objects(namespace: str) -> Iterator[Object]:
    for name, group, script, port in (
        *((name, "redis", _REPLICATED, 6379) for name in REDIS),
        *((name, "sentinel", _SENTINEL, 26379) for name in SENTINELS),
        *((name, "shard", _CLUSTER, 6379) for name in NODES),
    ):
        labels = {"group": group}
        yield pod(f"{namespace}/{name}", script, port, subdomain=group, labels=labels)
    for group, port in {"redis": 6379, "sentinel": 26379, "shard": 6379}.items():
        yield headless(f"{namespace}/{group}", port, labels={"group": group})


def cli(host: str, *words: str, port: int = 6379) -> list[str]:
    return ["redis-cli", "-h", host, "-p", str(port), *words]


def fields(text: str) -> dict[str, str]:
    """What INFO says."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def role(place: Place, name: str) -> dict[str, str]:
    """What a server says of its own replication, if it answers."""
    return fields(place.attempt(*cli(f"{name}.redis.{place.servers}", "info", "replication")).out)


def replicas_of(place: Place, master: str) -> set[str]:
    """The addresses of those that replicate from this very server and are up to date."""
    said = role(place, master)
    entries = [pair(value) for key, value in said.items() if key.startswith("slave")]
    return {entry["ip"] for entry in entries if entry.get("state") == "online"}


def await_replicas(place: Place, master: str) -> None:
    """Wait until all others replicate from the master itself, and not from each other."""
    others = {place.server(name)["IPv4"] for name in REDIS if name != master}
    eventually(lambda: replicas_of(place, master) == others, what=f"replicas {others} of {master}")


def pair(line: str) -> dict[str, str]:
    """``ip=10.0.0.1,port=6379`` as a mapping."""
    return dict(each.split("=", 1) for each in line.split(","))


def test_the_master_has_its_replicas_own_addresses(home: Place) -> None:
    await_replicas(home, current_master(home))


def test_sentinels_agree_on_a_master_and_leave_it_alone(home: Place) -> None:
    for sentinel in SENTINELS:
        eventually(
            lambda sentinel=sentinel: (
                {  # type: ignore[misc]  # mypy can't type defaults
                    "status=ok",
                    "slaves=2",
                    "sentinels=3",
                }
                <= set(watched(home, sentinel).split(","))
            ),
            what=f"{sentinel}'s knowing of all",
        )
    said = role(home, current_master(home))
    assert (said["role"], said["connected_slaves"]) == ("master", "2")


def test_a_replica_takes_the_place_of_a_dead_master(home: Place) -> None:
    old = current_master(home)
    home.run(*cli(f"{old}.redis.{home.servers}", "set", "before", home.mode))
    home.run(*cli(f"{old}.redis.{home.servers}", "wait", "2", "0"))
    with home.crashed(old):
        new = eventually(
            lambda: (now := current_master(home)) != old and now, what="another master"
        )
        eventually(lambda: role(home, str(new)).get("role") == "master", what="its promotion")
        assert home.run(*cli(f"{new}.redis.{home.servers}", "get", "before")) == f"{home.mode}\n"
        home.run(*cli(f"{new}.redis.{home.servers}", "set", "after", home.mode))
    await_replicas(home, str(new))
    assert role(home, old)["role"] == "slave"
    eventually(
        lambda: home.run(*cli(f"{old}.redis.{home.servers}", "get", "after")) == f"{home.mode}\n",
        what="the replica's catching up",
    )


def test_a_cluster_forms_and_sends_clients_to_the_right_node(home: Place) -> None:
    addresses = {name: home.server(name)["IPv4"] for name in NODES}
    if "cluster_state:ok" not in home.run(*cli(addresses["shard-0"], "cluster", "info")):
        members = [f"{address}:6379" for address in addresses.values()]
        home.run("redis-cli", "--cluster", "create", *members, "--cluster-yes")
    for address in addresses.values():
        eventually(
            lambda address=address: (
                "cluster_state:ok"  # type: ignore[misc]  # as above
                in home.run(*cli(address, "cluster", "info"))
            ),
            what=f"the cluster's state at {address}",
        )
        nodes = home.run(*cli(address, "cluster", "nodes")).splitlines()
        assert {line.split()[1].split(":")[0] for line in nodes} == set(addresses.values())
    keys = [f"key-{number}" for number in range(20)]
    for key in keys:
        assert home.run(*cli(addresses["shard-0"], "-c", "set", key, home.mode)) == "OK\n"
    for key in keys:
        assert home.run(*cli(addresses["shard-1"], "-c", "get", key)) == f"{home.mode}\n"


def test_replication_subscriptions_and_the_cluster_outlive_changes_of_mode(inside: Place) -> None:
    master = current_master(inside)
    host = f"{master}.redis"
    replicas = [name for name in REDIS if name != master]
    await_replicas(inside, master)
    syncs = fields(inside.run(*cli(host, "info", "stats")))
    with inside.session(*cli(host, "subscribe", "news")) as subscriber:
        subscriber.hear("subscribe")
        for mode in inside.changes():
            inside.run(*cli(host, "publish", "news", f"this is {mode}"))
            subscriber.hear(f"this is {mode}")
            inside.run(*cli(host, "set", "mode", mode))
            assert inside.run(*cli(host, "wait", "2", "30000")) == "2\n"
            assert {role(inside, name)["master_link_status"] for name in replicas} == {"up"}
            assert "cluster_state:ok" in inside.run(*cli("shard-1.shard", "cluster", "info"))
    after = fields(inside.run(*cli(host, "info", "stats")))
    for kind in ("sync_full", "sync_partial_ok"):
        assert after[kind] == syncs[kind], "a replica has connected again"
    assert current_master(inside) == master


def test_replication_across_the_border_outlives_changes_of_mode(border: Place) -> None:
    # Of their own, or Sentinel would look after them.
    script = ("bash", "-euc", f"mkdir -p /data/redis; cd /data/redis; {_BORDER} $@", "_")
    master = border.pods.addresses(f"{border.servers}/client")["IPv4"]
    with (
        border.server_session(*script) as one,
        border.session(*script, "--replicaof", master, str(_BORDER_PORT)) as other,
    ):
        one.hear("Ready to accept connections")
        other.hear("Finished with success")
        asked = cli(master, "info", "replication", port=_BORDER_PORT)
        assert pair(fields(border.run(*asked))["slave0"])["ip"] == border.client()["IPv4"]
        for mode in border.changes():
            border.run(*cli(master, "set", "mode", mode, port=_BORDER_PORT))
            eventually(
                lambda mode=mode: (  # type: ignore[misc]  # as above
                    border.run(*cli("127.0.0.1", "get", "mode", port=_BORDER_PORT)) == f"{mode}\n"
                ),
                what=f"{mode!r} at the replica",
            )
        stats = fields(border.run(*cli(master, "info", "stats", port=_BORDER_PORT)))
        assert (stats["sync_full"], stats["sync_partial_ok"]) == ("1", "0"), "it connected again"


_BORDER_PORT = 6390
_BORDER = (
    f"exec redis-server --port {_BORDER_PORT} --protected-mode no --save ''"
    " --repl-diskless-sync-delay 0"
)


def watched(place: Place, sentinel: str) -> str:
    """What a sentinel says of the master it watches."""
    host = f"{sentinel}.sentinel.{place.servers}"
    said = fields(place.run(*cli(host, "info", "sentinel", port=26379)))
    return said.get("master0", "")


def current_master(place: Place) -> str:
    """The pod that Sentinel sends clients to."""
    host = f"sentinel-0.sentinel.{place.servers}"
    said = place.run(
        *cli(host, "sentinel", "get-master-addr-by-name", "main", port=26379)
    ).splitlines()[0]
    names = {address: name for name in REDIS for address in place.server(name).values()}
    return names[said]
