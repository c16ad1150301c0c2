"""Postfix: the server speaks first, and relays for its own machine only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.servers.manifests import pod, service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.manifests import Object
    from tests.servers.places import Place

_POSTFIX = r"""
mkdir -p /data/conf /data/spool /data/lib
chown postfix /data/lib
cat >/data/conf/main.cf <<'END'
compatibility_level = 3.6
queue_directory = /data/spool
data_directory = /data/lib
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mail.test
mydestination = mail.test
inet_interfaces = all
inet_protocols = all
mynetworks_style = host
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
local_recipient_maps =
default_transport = discard
local_transport = discard
alias_maps =
maillog_file = /dev/stdout
maillog_file_prefixes = /dev
END
cat >/data/conf/master.cf <<'END'
smtp      inet  n  -  n  -    -  smtpd
cleanup   unix  n  -  n  -    0  cleanup
qmgr      unix  n  -  n  300  1  qmgr
rewrite   unix  -  -  n  -    -  trivial-rewrite
bounce    unix  -  -  n  -    0  bounce
defer     unix  -  -  n  -    0  bounce
discard   unix  -  -  n  -    -  discard
anvil     unix  -  -  n  -    1  anvil
postlog   unix-dgram  n  -  n  -  1  postlogd
END
exec postfix -c /data/conf start-fg
"""

# Sends one message, and says what the server thinks of it and of its sender.
_SEND = """
import smtplib, sys
host, sender, recipient = sys.argv[1:]
with smtplib.SMTP(host, 25, timeout=30) as mail:
    print(*mail.ehlo("client.test"))
    print(*mail.mail(sender))
    code, text = mail.rcpt(recipient)
    print(code, text.decode())
    if code == 250:
        code, text = mail.data("Subject: test\\r\\n\\r\\n" + ("x" * 70 + "\\r\\n") * 10000)
        print(code, text.decode())
"""


def objects(namespace: str) -> Iterator[Object]:
    yield pod(f"{namespace}/postfix", _POSTFIX, 25, etc=["postfix"])
    yield service(f"{namespace}/postfix", 25)


def send(host: str, recipient: str) -> list[str]:
    return ["python3", "-I", "-c", _SEND, host, "somebody@client.test", recipient]


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_stranger_s_mail_is_not_relayed(place: Place, family: str) -> None:
    said = place.run(*send(place.server("postfix")[family], "anybody@elsewhere.test"))
    assert "554 5.7.1 <anybody@elsewhere.test>: Relay access denied" in said


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_mail_of_the_server_s_own_pod_is_relayed(place: Place, family: str) -> None:
    said = place.on("postfix", *send(place.server("postfix")[family], "anybody@elsewhere.test"))
    assert "queued as" in said


def test_mail_for_the_server_itself_is_taken(place: Place) -> None:
    said = place.run(*send(place.name("postfix"), "somebody@mail.test"))
    assert "queued as" in said


def test_a_client_outlives_changes_of_mode(inside: Place) -> None:
    with inside.session("python3", "-I", "-c", _TALK, "postfix") as talk:
        talk.hear("220")
        for mode in inside.changes():
            talk.ask(f"NOOP {mode}", "250")
            assert "queued as" in inside.run(*send("postfix", "somebody@mail.test"))
        talk.ask("QUIT", "221")


_TALK = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 25))
answers = connection.makefile("r")
print(answers.readline(), end="", flush=True)
for line in sys.stdin:
    connection.sendall(line.replace("\\n", "\\r\\n").encode())
    print(answers.readline(), end="", flush=True)
"""
