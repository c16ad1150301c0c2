"""RabbitMQ: two nodes by Erlang's distribution, and clients by AMQP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.servers.manifests import headless, pod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.manifests import Object
    from tests.servers.places import Place, Session

NODES = ("rabbit-0", "rabbit-1")
_SBIN = "/usr/lib/rabbitmq/lib/*/sbin"
_SERVER = """
cat >/data/rabbitmq.conf <<END
loopback_users = none
listeners.tcp.default = 5672
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = rabbit@rabbit-0.rabbit
cluster_formation.classic_config.nodes.2 = rabbit@rabbit-1.rabbit
cluster_formation.randomized_startup_delay_range.min = 0
cluster_formation.randomized_startup_delay_range.max = 2
END
printf secret >/data/.erlang.cookie
chmod 400 /data/.erlang.cookie
exec /usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server
"""
_ENV = {
    "HOME": "/data",
    "RABBITMQ_USE_LONGNAME": "true",
    "RABBITMQ_CONFIG_FILE": "/data/rabbitmq.conf",
    "RABBITMQ_ENABLED_PLUGINS_FILE": "/data/plugins",
    "RABBITMQ_MNESIA_BASE": "/data/mnesia",
    "RABBITMQ_LOGS": "-",
    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
}


def objects(namespace: str) -> Iterator[Object]:
    labels = {"group": "rabbit"}
    for name in NODES:
        env = _ENV | {"RABBITMQ_NODENAME": f"rabbit@{name}.rabbit"}
        yield pod(f"{namespace}/{name}", _SERVER, 5672, subdomain="rabbit", labels=labels, env=env)
    yield headless(f"{namespace}/rabbit", 5672, labels=labels)


def url(place: Place, node: str) -> str:
    return f"--url=amqp://guest:guest@{node}.rabbit.{place.servers}"


def control(place: Place, *words: str) -> str:
    """What rabbitmqctl says on the first node."""
    return place.on("rabbit-0", "bash", "-c", f'exec {_SBIN}/rabbitmqctl -q "$@"', "_", *words)


def test_messages_are_passed_on_between_the_nodes(home: Place) -> None:
    home.run("amqp-declare-queue", url(home, "rabbit-0"), "-q", "jobs")
    for number in range(3):
        home.run("amqp-publish", url(home, "rabbit-1"), "-r", "jobs", "-b", f"job {number}")
    for number in range(3):
        assert home.run("amqp-get", url(home, "rabbit-1"), "-q", "jobs") == f"job {number}"
    home.run("amqp-delete-queue", url(home, "rabbit-0"), "-q", "jobs")


def test_the_nodes_see_each_other_and_their_clients_own_addresses(home: Place) -> None:
    running = control(home, "eval", "lists:sort(rabbit_mnesia:cluster_nodes(running)).")
    assert "'rabbit@rabbit-0.rabbit','rabbit@rabbit-1.rabbit'" in running
    with consumer(home, "rabbit-0", "idle"):
        peers = control(home, "--no-table-headers", "list_connections", "peer_host").split()
        assert set(peers) == {home.client()["IPv4"]}


def test_consumers_and_the_cluster_outlive_changes_of_mode(inside: Place) -> None:
    with consumer(inside, "rabbit-0", "news") as reader:
        for mode in inside.changes():
            inside.run(
                "amqp-publish", url(inside, "rabbit-1"), "-r", "news", "-b", f"this is {mode}\n"
            )
            reader.hear(f"this is {mode}")
    assert control(inside, "eval", "rabbit_mnesia:cluster_nodes(running).").count("@") == 2
    said = inside.pods.mesh.troth("logs", f"{inside.servers}/rabbit-0").stdout
    assert "rabbit on node 'rabbit@rabbit-1.rabbit' down" not in said


def consumer(place: Place, node: str, queue: str) -> Session:
    """A consumer that prints messages; it is connected when this returns."""
    place.run("amqp-declare-queue", url(place, node), "-q", queue)
    session = place.session("amqp-consume", url(place, node), "-q", queue, "cat")
    place.run("amqp-publish", url(place, node), "-r", queue, "-b", "first\n")
    session.hear("first")
    return session
