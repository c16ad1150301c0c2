"""vsftpd: the server speaks first, and data goes over connections of their own, in both modes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.servers.manifests import pod, service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.manifests import Object
    from tests.servers.places import Place

_VSFTPD = r"""
mkdir -p /data/root/incoming /data/empty
head -c 5000000 /dev/urandom >/data/root/file
chown daemon /data/root/incoming
cat >/data/vsftpd.conf <<'END'
listen_ipv6=YES
background=NO
anonymous_enable=YES
ftp_username=daemon
nopriv_user=nobody
anon_root=/data/root
write_enable=YES
anon_upload_enable=YES
anon_other_write_enable=YES
secure_chroot_dir=/data/empty
connect_from_port_20=NO
isolate=NO
isolate_network=NO
seccomp_sandbox=NO
xferlog_enable=NO
END
exec vsftpd /data/vsftpd.conf
"""

# By name: what makes curl use it.
KINDS = {
    "passive": ["--ftp-pasv", "--disable-epsv"],
    "extended passive": ["--ftp-pasv"],
    "active": ["--ftp-port", "-", "--disable-eprt"],
    "extended active": ["--ftp-port", "-"],
}

# PORT and PASV are for IPv4 alone (RFC 2428).
WAYS = [(kind, "IPv4") for kind in KINDS] + [(kind, "IPv6") for kind in KINDS if "extended" in kind]


def objects(namespace: str) -> Iterator[Object]:
    yield pod(f"{namespace}/vsftpd", _VSFTPD, 21)
    yield service(f"{namespace}/vsftpd", 21)


@pytest.mark.parametrize(("kind", "family"), WAYS)
def test_files_are_fetched_and_stored(place: Place, kind: str, family: str) -> None:
    address = place.server("vsftpd")[family]
    host = f"[{address}]" if family == "IPv6" else address
    done = place.attempt("bash", "-c", _BOTH_WAYS, "_", f"ftp://{host}", *KINDS[kind])
    if "active" in kind and (place.servers, place.clients, place.mode) == (
        "bare",
        "inside",
        "STRICT",
    ):
        # The server outside the mesh calls the client back, in plaintext.
        assert done.code != 0
        return
    assert done.code == 0, done
    assert place.on("vsftpd", "cmp", "/data/root/file", "/data/root/incoming/copy") == ""
    place.on("vsftpd", "rm", "/data/root/incoming/copy")


_BOTH_WAYS = """
url=$1; shift
curl -sS --connect-timeout 10 "$@" -o /data/copy "$url/file" &&
curl -sS --connect-timeout 10 "$@" -T /data/copy "$url/incoming/copy"
"""


def test_a_session_outlives_changes_of_mode(inside: Place) -> None:
    # By its pod's address: EPSV has the client call the same one, and a Service has but its ports.
    address = inside.server("vsftpd")["IPv6"]
    with inside.session("python3", "-I", "-c", _SESSION, address) as session:
        session.hear("logged in")
        for mode in inside.changes():
            session.ask(f"passive {mode}", f"5000000 passive {mode}")
            session.ask(f"active {mode}", f"5000000 active {mode}")


_SESSION = """
import ftplib, sys
with ftplib.FTP(sys.argv[1], timeout=60) as ftp:
    ftp.login()
    print("logged in", flush=True)
    for line in sys.stdin:
        ftp.set_pasv(line.startswith("passive"))
        pieces = []
        ftp.retrbinary("RETR file", pieces.append)
        print(sum(map(len, pieces)), line, end="", flush=True)
"""
