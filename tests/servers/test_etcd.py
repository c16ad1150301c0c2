"""etcd: three peers that elect a leader, and another when it dies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.e2e.harness import eventually
from tests.servers.manifests import headless, pod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.manifests import Object
    from tests.servers.places import Place

ETCDS = ("etcd-0", "etcd-1", "etcd-2")

_PEERS = ",".join(f"{name}=http://{name}.etcd:2380" for name in ETCDS)
_ETCD = f"""
exec etcd --name=$HOSTNAME --data-dir=/data/etcd --initial-cluster={_PEERS} \
  --initial-advertise-peer-urls=http://$HOSTNAME.etcd:2380 --listen-peer-urls=http://0.0.0.0:2380 \
  --advertise-client-urls=http://$POD_IP:2379 --listen-client-urls=http://0.0.0.0:2379 \
  --unsafe-no-fsync
"""


def objects(namespace: str) -> Iterator[Object]:
    labels = {"group": "etcd"}
    for name in ETCDS:
        yield pod(f"{namespace}/{name}", _ETCD, 2379, subdomain="etcd", labels=labels)
    yield headless(f"{namespace}/etcd", 2379, labels=labels)


def etcdctl(place: Place, *words: str, among: tuple[str, ...] = ETCDS) -> str:
    hosts = ",".join(f"http://{name}.etcd.{place.servers}:2379" for name in among)
    return place.run("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={hosts}", *words)


def etcd_status(place: Place, *, among: tuple[str, ...] = ETCDS) -> dict[str, Any]:
    """What each etcd says of itself, by pod."""
    found = json.loads(etcdctl(place, "endpoint", "status", "-w", "json", among=among))
    return {
        each["Endpoint"].removeprefix("http://").partition(".")[0]: each["Status"] for each in found
    }


def etcd_leader(place: Place, *, among: tuple[str, ...] = ETCDS) -> str:
    """The leader, once all of these agree on it."""

    def find() -> str:
        status = etcd_status(place, among=among)
        leaders = {each.get("leader", 0) for each in status.values()}  # 0 is left out
        ids = {each["header"]["member_id"]: name for name, each in status.items()}
        return ids.get(leaders.pop(), "") if len(leaders) == 1 else ""

    return eventually(find, what=f"a leader of {among}")


def test_etcd_elects_another_leader_when_one_dies(home: Place) -> None:
    old = etcd_leader(home)
    others = tuple(name for name in ETCDS if name != old)
    etcdctl(home, "put", "mode", home.mode)
    with home.crashed(old):
        assert etcd_leader(home, among=others) in others
        assert home.mode in etcdctl(home, "get", "mode", among=others)
        etcdctl(home, "put", "mode", "changed", among=others)
    assert etcd_leader(home) in others
    eventually(
        lambda: "changed" in etcdctl(home, "get", "mode", "--consistency=s", among=(old,)),
        what=f"{old}'s catching up",
    )


def test_clients_find_etcd_s_members_by_the_addresses_they_publish(home: Place) -> None:
    etcd_leader(home)
    members = json.loads(etcdctl(home, "member", "list", "-w", "json", among=("etcd-0",)))
    urls = {url for member in members["members"] for url in member["clientURLs"]}
    assert urls == {f"http://{home.server(name)['IPv4']}:2379" for name in ETCDS}
    # This asks each of those for its health.
    assert etcdctl(home, "endpoint", "health", "--cluster", among=("etcd-0",)) == ""


def test_etcd_s_leader_and_watches_outlive_changes_of_mode(inside: Place) -> None:
    leader, term = etcd_leader(inside), etcd_status(inside)["etcd-0"]["raftTerm"]
    command = ("env", "ETCDCTL_API=3", "etcdctl", "--endpoints=http://etcd-0.etcd:2379", "watch")
    with inside.session(*command, "news") as watch:
        # A watch says nothing before its first event.
        eventually(lambda: etcdctl(inside, "put", "news", "first") and watch.heard("first"))
        for mode in inside.changes():
            etcdctl(inside, "put", "news", f"this is {mode}")
            watch.hear(f"this is {mode}")
    assert etcd_leader(inside) == leader
    assert etcd_status(inside)["etcd-0"]["raftTerm"] == term, "it was elected once more"
