"""Mosquitto: retained messages, a long subscription, and the will of a client that dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.servers.manifests import pod, service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.manifests import Object
    from tests.servers.places import Place, Session

_MOSQUITTO = r"""
cat >/data/mosquitto.conf <<'END'
listener 1883
allow_anonymous true
user nobody
log_dest stdout
END
exec mosquitto -c /data/mosquitto.conf
"""


def objects(namespace: str) -> Iterator[Object]:
    yield pod(f"{namespace}/mosquitto", _MOSQUITTO, 1883)
    yield service(f"{namespace}/mosquitto", 1883)


def subscribe(place: Place, topic: str, *options: str) -> Session:
    host = place.name("mosquitto")
    # mosquitto_sub says nothing of its own when it has subscribed; with -d it does.
    command = ("mosquitto_sub", "-d", "-h", host, "-t", topic, "-k", "5", *options)
    session = place.session("stdbuf", "-oL", *command)
    session.hear("Subscribed")
    return session


def publish(place: Place, topic: str, text: str, *options: str) -> None:
    host = place.name("mosquitto")
    place.run("mosquitto_pub", "-h", host, "-q", "1", "-t", topic, "-m", text, *options)


def test_a_retained_message_waits_for_subscribers(place: Place) -> None:
    publish(place, "state", place.mode, "-r")
    with subscribe(place, "state") as reader:
        assert reader.hear(place.mode)


def test_a_dead_client_s_will_is_published(place: Place) -> None:
    script = (
        'echo $$ >/data/pid-of-client; exec stdbuf -oL mosquitto_sub -d -h "$1" -t nothing'
        ' --will-topic wills --will-payload "gone without a word"'
    )
    with (
        subscribe(place, "wills") as reader,
        place.session("bash", "-c", script, "_", place.name("mosquitto")) as client,
    ):
        client.hear("Subscribed")
        place.run("bash", "-c", "kill -KILL $(cat /data/pid-of-client)")
        reader.hear("gone without a word")


def test_subscriptions_outlive_changes_of_mode(inside: Place) -> None:
    with subscribe(inside, "news", "-v") as reader:
        for mode in inside.changes():
            publish(inside, "news", f"this is {mode}")
            reader.hear(f"news this is {mode}")
