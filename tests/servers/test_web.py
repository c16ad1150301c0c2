"""Apache and nginx: who is local, who is let in, and WebSockets behind a proxy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.servers.manifests import pod, service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.manifests import Object
    from tests.servers.places import Place, Session

_PROGRAM = (Path(__file__).with_name("programs") / "websocket.py").read_text()

_APACHE = r"""
mkdir -p /data/pages/local /data/pages/pods
echo 'for this machine' >/data/pages/local/page
echo 'for the pods' >/data/pages/pods/page
chmod -R a+rX /data
modules=/usr/lib/apache2/modules
cat >/data/apache.conf <<END
ServerName apache
User nobody
Group nogroup
Listen 80
PidFile /data/apache.pid
LoadModule mpm_event_module $modules/mod_mpm_event.so
LoadModule authz_core_module $modules/mod_authz_core.so
LoadModule authz_host_module $modules/mod_authz_host.so
DocumentRoot /data/pages
ErrorLog /dev/stderr
<Location /local>
Require local
</Location>
<Location /pods>
Require ip 10.244.0.0/16 fd74:726f:7468::/48
</Location>
END
exec apache2 -f /data/apache.conf -DFOREGROUND
"""

_NGINX = r"""
cat >/data/nginx.conf <<'END'
daemon off;
user nobody nogroup;
pid /data/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path /data/body;
  proxy_temp_path /data/proxy;
  fastcgi_temp_path /data/fastcgi;
  uwsgi_temp_path /data/uwsgi;
  scgi_temp_path /data/scgi;
  server {
    listen 80;
    listen [::]:80;
    location /address { return 200 $remote_addr; }
    location /socket {
      proxy_pass http://websocket:9000;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_set_header X-Real-IP $remote_addr;
    }
  }
}
END
until getent hosts websocket >/dev/null; do sleep 0.1; done
exec nginx -e stderr -c /data/nginx.conf
"""

_WEBSOCKET = f"""
cat >/data/websocket.py <<'END'
{_PROGRAM}
END
exec python3 -I /data/websocket.py serve 9000
"""


def objects(namespace: str) -> Iterator[Object]:
    for name, script, port in (
        ("apache", _APACHE, 80),
        ("nginx", _NGINX, 80),
        ("websocket", _WEBSOCKET, 9000),
    ):
        yield pod(f"{namespace}/{name}", script, port)
        yield service(f"{namespace}/{name}", port)


def fetch(place: Place, address: str, path: str) -> tuple[str, str]:
    """What curl gets: the status and the body."""
    host = f"[{address}]" if ":" in address else address
    said = place.run("curl", "-sS", "-w", "\n%{http_code}", f"http://{host}{path}")
    body, _, status = said.rpartition("\n")
    return status, body


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_apache_takes_nobody_else_for_local(place: Place, family: str) -> None:
    address = place.server("apache")[family]
    assert fetch(place, address, "/local/page")[0] == "403"
    assert fetch(place, address, "/pods/page") == ("200", "for the pods\n")
    own = place.on("apache", "curl", "-sS", "http://127.0.0.1/local/page")
    assert own == "for this machine\n"


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_nginx_sees_the_clients_own_address(place: Place, family: str) -> None:
    address = place.server("nginx")[family]
    assert fetch(place, address, "/address") == ("200", place.client()[family])


def test_a_websocket_behind_a_proxy_answers(place: Place) -> None:
    with websocket(place) as talk:
        assert talk.hear("opened").split()[1] in place.client().values()
        for number in range(5):
            assert talk.ask(f"message {number}", f"message {number}") == f"echo: message {number}"
        talk.ask("x" * 100_000, "x" * 100_000)
        talk.ask("close", "closed 1000")


def test_websockets_outlive_changes_of_mode(inside: Place) -> None:
    with websocket(inside) as talk:
        talk.hear("opened")
        for mode in inside.changes():
            assert talk.ask(mode, mode) == f"echo: {mode}"
            with websocket(inside) as another:
                another.hear("opened")
        talk.ask("close", "closed 1000")


def websocket(place: Place) -> Session:
    url = f"ws://{place.name('nginx')}/socket"
    return place.session("python3", "-I", "-c", _PROGRAM, "connect", url)
