"""PostgreSQL: who it takes a client for, what stays open, and a standby."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.e2e.harness import eventually
from tests.servers.manifests import AS_NOBODY, pod, service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.manifests import Object
    from tests.servers.places import Place

# The pods' networks may log in as "app"; who is superuser depends on being on the same machine.
_HBA = r"""
local all all trust
host all app 10.244.0.0/16 trust
host all app fd00::/8 trust
host replication app 10.244.0.0/16 trust
host replication app fd00::/8 trust
host all postgres samehost trust
"""

_PRIMARY = f"""
chown nobody /data
as='{AS_NOBODY}'
bin=$(echo /usr/lib/postgresql/*/bin)
$as $bin/initdb --pgdata=/data/db --username=postgres --auth=trust --no-sync >/dev/null
printf '%s' '{_HBA}' >/data/db/pg_hba.conf
cat >>/data/db/postgresql.conf <<END
listen_addresses = '*'
unix_socket_directories = '/data'
shared_buffers = 16MB
fsync = off
jit = off
END
$as $bin/pg_ctl --pgdata=/data/db --wait --options='-c listen_addresses=' start >/dev/null
psql --host=/data --username=postgres --quiet postgres <<END
create role app login replication;
create table pile (line text);
alter table pile owner to app;
END
$as $bin/pg_ctl --pgdata=/data/db --wait stop >/dev/null
exec $as $bin/postgres -D /data/db
"""

_STANDBY = f"""
chown nobody /data
as='{AS_NOBODY}'
bin=$(echo /usr/lib/postgresql/*/bin)
until $as $bin/pg_basebackup --host=postgres --username=app --pgdata=/data/db \
  --write-recovery-conf --no-sync --checkpoint=fast; do sleep 0.2; rm -rf /data/db; done
exec $as $bin/postgres -D /data/db
"""


def objects(namespace: str) -> Iterator[Object]:
    yield pod(f"{namespace}/postgres", _PRIMARY, 5432)
    yield service(f"{namespace}/postgres", 5432)
    yield pod(f"{namespace}/standby", _STANDBY, 5432)


def psql(user: str, host: str) -> list[str]:
    settings = f"host={host} user={user} dbname=postgres connect_timeout=10"
    return ["psql", "--no-psqlrc", "--tuples-only", "--no-align", settings]


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_the_server_sees_the_clients_own_address(place: Place, family: str) -> None:
    server = place.server("postgres")[family]
    seen = place.run(*psql("app", server), "-c", "select host(inet_client_addr())")
    assert seen.strip() == place.client()[family]


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_nobody_else_is_taken_for_the_server_s_own_host(place: Place, family: str) -> None:
    server = place.server("postgres")[family]
    done = place.attempt(*psql("postgres", server), "-c", "select 1")
    assert "no pg_hba.conf entry" in done.err


def test_the_server_s_own_pod_is(place: Place) -> None:
    server = place.server("postgres")["IPv4"]
    assert place.on("postgres", *psql("postgres", server), "-c", "select 1") == "1\n"


def test_some_megabytes_are_copied_in_and_out(place: Place) -> None:
    lines = "".join(f"{number:099d}\n" for number in range(30_000))
    command = psql("app", place.name("postgres"))
    place.run(*command, "-c", "truncate pile")
    place.run(*command, "-c", "copy pile from stdin", stdin=lines)
    assert place.run(*command, "-c", "copy pile to stdout") == lines


def test_a_query_is_cancelled_by_a_second_connection(place: Place) -> None:
    done = place.attempt("bash", "-c", _CANCEL, "_", *psql("app", place.name("postgres")))
    assert "canceling statement due to user request" in done.err


# What Ctrl-C does: psql asks the server on another connection to cancel what runs on this one.
_CANCEL = """
"$@" -c 'select pg_sleep(600)' & pid=$!
busy="select count(*) from pg_stat_activity where query = 'select pg_sleep(600)'"
until [[ $("$@" -c "$busy") == 1 ]]; do sleep 0.1; done
kill -INT $pid
wait $pid
"""


def test_a_standby_follows(home: Place) -> None:
    assert senders(home) <= set(home.server("standby").values())
    write(home, "followed")


def test_open_connections_and_replication_outlive_changes_of_mode(inside: Place) -> None:
    with inside.session(*psql("app", "postgres"), "--quiet") as listener:
        listener.ask("listen news; select 'listening';", "listening")
        started = "select backend_start from pg_stat_replication"
        standby = inside.on("postgres", *LOCAL, "-c", started)
        for mode in inside.changes():
            inside.run(*psql("app", "postgres"), "-c", f"notify news, '{mode}'")
            listener.ask("select 'still here';", f'"{mode}"')
            write(inside, mode)
        assert inside.on("postgres", *LOCAL, "-c", started) == standby


def test_a_standby_across_the_border_outlives_changes_of_mode(border: Place) -> None:
    host = border.name("postgres")
    with border.session("bash", "-euc", _BORDER_STANDBY, "_", host) as standby:
        standby.hear("started streaming")
        assert senders(border) & set(border.client().values())
        started = "select backend_start from pg_stat_replication order by backend_start"
        before = border.on("postgres", *LOCAL, "-c", started)
        for mode in border.changes():
            change = f"truncate pile; insert into pile values ('{mode}')"
            border.run(*psql("app", host), "-c", change)
            eventually(
                lambda mode=mode: (  # type: ignore[misc]  # mypy can't type defaults
                    border.run(*psql("postgres", "/data/standby"), "-c", "select line from pile")
                    == f"{mode}\n"
                ),
                what=f"{mode!r} at the standby",
            )
        assert border.on("postgres", *LOCAL, "-c", started) == before
    border.run("rm", "-r", "/data/standby")


_BORDER_STANDBY = f"""
mkdir /data/standby
chown nobody /data/standby
bin=$(echo /usr/lib/postgresql/*/bin)
{AS_NOBODY} $bin/pg_basebackup --host="$1" --username=app --pgdata=/data/standby/db \
  --write-recovery-conf --no-sync --checkpoint=fast
exec {AS_NOBODY} $bin/postgres -D /data/standby/db \
  -c listen_addresses= -c unix_socket_directories=/data/standby
"""

LOCAL = psql("postgres", "/data")


def senders(place: Place) -> set[str]:
    """The addresses that the primary sees its standbys at."""
    seen = place.on("postgres", *LOCAL, "-c", "select host(client_addr) from pg_stat_replication")
    return set(seen.split())


def write(place: Place, line: str) -> None:
    """Write a line to the primary, and wait until the standby has it."""
    change = f"truncate pile; insert into pile values ('{line}')"
    place.run(*psql("app", place.name("postgres")), "-c", change)
    eventually(
        lambda: place.on("standby", *LOCAL, "-c", "select line from pile") == f"{line}\n",
        what=f"{line!r} at the standby",
    )
