"""MariaDB: the server speaks first, accounts are for a host, and a replica follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.e2e.harness import eventually
from tests.servers.manifests import AS_NOBODY, pod, service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.manifests import Object
    from tests.servers.places import Place

_SERVER = f"""
chown nobody /data
as='{AS_NOBODY}'
[[ -d /data/db ]] || $as mariadb-install-db --no-defaults --datadir=/data/db \
  --auth-root-authentication-method=normal --skip-test-db --skip-log-bin >/dev/null
exec $as mariadbd --no-defaults --datadir=/data/db --socket=/data/socket --bind-address='*' \
  --skip-name-resolve --max-connect-errors=1000000 --innodb-buffer-pool-size=16M \
  --innodb-flush-log-at-trx-commit=0 --init-file=/data/init.sql"""

_PRIMARY = f"""
cat >/data/init.sql <<END
create database if not exists shop;
create table if not exists shop.pile (line varchar(100));
create user if not exists app@'10.244.%';
create user if not exists app@'fd74:%';
grant all on shop.* to app@'10.244.%';
grant all on shop.* to app@'fd74:%';
create user if not exists standby@'10.244.%';
create user if not exists standby@'fd74:%';
grant replication slave on *.* to standby@'10.244.%';
grant replication slave on *.* to standby@'fd74:%';
END
{_SERVER} --server-id=1 --log-bin=/data/db/log"""

_REPLICA = f"""
cat >/data/init.sql <<END
change master to master_host='mariadb', master_user='standby', master_connect_retry=1,
  master_log_file='log.000001', master_log_pos=4;
start slave;
END
{_SERVER} --server-id=2"""


def objects(namespace: str) -> Iterator[Object]:
    yield pod(f"{namespace}/mariadb", _PRIMARY, 3306)
    yield service(f"{namespace}/mariadb", 3306)
    yield pod(f"{namespace}/mariadb-replica", _REPLICA, 3306)


def sql(user: str, host: str, query: str) -> list[str]:
    options = ("--no-defaults", "--skip-column-names", "--batch", "--connect-timeout=30")
    return ["mariadb", *options, f"--user={user}", f"--host={host}", f"--execute={query}"]


LOCAL = ("mariadb", "--no-defaults", "-NB", "--user=root", "--socket=/data/socket", "--execute")


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_an_account_for_an_address_is_for_nobody_else(place: Place, family: str) -> None:
    server, client = place.server("mariadb")[family], place.client()[family]
    account = f"only@'{client}'"
    place.on("mariadb", *LOCAL, f"create or replace user {account}")
    assert place.run(*sql("only", server, "select user()")) == f"only@{client}\n"
    place.on("mariadb", *LOCAL, f"drop user {account}; create user only@'192.0.2.1'")
    refused = place.attempt(*sql("only", server, "select user()"))
    place.on("mariadb", *LOCAL, "drop user only@'192.0.2.1'")
    assert f"Access denied for user 'only'@'{client}'" in refused.err


def test_some_megabytes_are_written_and_read(place: Place) -> None:
    host = place.name("mariadb")
    assert place.run(*sql("app", host, "select length(repeat('x', 12000000))")) == "12000000\n"
    assert len(place.run(*sql("app", host, "select repeat('x', 12000000)"))) == 12_000_001
    place.run(*sql("app", host, "truncate shop.pile"))
    lines = "insert into shop.pile values " + ",".join(["('a line like any other')"] * 100_000)
    place.run(*sql("app", host, "")[:-1], stdin=lines)
    assert place.run(*sql("app", host, "select count(*) from shop.pile")) == "100000\n"


def test_a_replica_follows_and_the_primary_knows_it_by_its_own_address(home: Place) -> None:
    write(home, "followed")
    (host, _) = dumps(home)[0]
    assert host in home.server("mariadb-replica").values()


def test_transactions_and_replication_outlive_changes_of_mode(inside: Place) -> None:
    before = dumps(inside)
    command = sql("app", "mariadb", "")[:-1]
    with inside.session(*command, "--unbuffered") as shell:
        shell.ask("start transaction; select 'started';", "started")
        for mode in inside.changes():
            shell.ask(f"insert into shop.pile values ('{mode}'); select '{mode}';", mode)
            write(inside, f"{mode} elsewhere")
        shell.ask("commit; select 'done';", "done")
    assert dumps(inside) == before
    inside.run(*sql("app", "mariadb", "truncate shop.pile"))


def dumps(place: Place) -> list[tuple[str, str]]:
    """The replicas' connections: the address and the number of each."""
    query = "select host, id from information_schema.processlist where command = 'Binlog Dump'"
    lines = place.on("mariadb", *LOCAL, query).splitlines()
    pairs = (line.split("\t") for line in lines)
    return [(host.rpartition(":")[0].strip("[]"), number) for host, number in pairs]


def write(place: Place, line: str) -> None:
    """Write a line to the primary, and wait until the replica has it."""
    change = f"insert into shop.pile values ('{line}')"
    place.run(*sql("app", place.name("mariadb"), change))
    query = f"select count(*) from shop.pile where line = '{line}'"
    eventually(
        lambda: place.on("mariadb-replica", *LOCAL, query) != "0\n",
        what=f"{line!r} at the replica",
    )
