"""What a user would pick instead: pairs of proxies that carry TCP over mutual TLS 1.3.

Each is set up to do what troth does: TLS 1.3 only, certificates demanded and verified at both ends,
every connection proven afresh (no session is resumed), limits on connections that nothing here
reaches. What else there is to choose is left at its default, with one worker each.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

from benchmarks.data_plane import envoys
from benchmarks.data_plane.certificates import KEY, LEAF, LEAF_AND_KEY, NAME, ROOT
from troth.envoy.process import find_envoy
from troth.mesh.ports import OUTBOUND_PORT, TUNNEL_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

APP_PORT = 8080


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """A pair of proxies.

    Attributes:
        name: What it is called.
        command: Starts one of them; the configuration's path goes where ``{}`` is.
        client: Configuration of the one beside the client.
        server: Configuration of the one beside the server.
    """

    name: str
    command: tuple[str, ...]
    client: str
    server: str


def contenders(files: Path, server_addresses: Mapping[str, str]) -> list[Contender]:
    """All of them.

    Args:
        files: Where the certificates are and where logs go.
        server_addresses: By contender, the address of the pod that its server's proxy is in.
    """
    return [
        Contender(
            name="haproxy",
            command=("haproxy", "-db", "-f", "{}"),
            client=_HAPROXY_BASE
            + f"  bind 127.0.0.1:{OUTBOUND_PORT}\n"
            + f"  server far {server_addresses['haproxy']}:{TUNNEL_PORT} ssl verify required"
            + f" verifyhost {NAME} ca-file {files / ROOT} crt {files / LEAF_AND_KEY}"
            + " ssl-min-ver TLSv1.3 no-ssl-reuse\n",
            server=_HAPROXY_BASE
            + f"  bind :{TUNNEL_PORT} ssl crt {files / LEAF_AND_KEY} ca-file {files / ROOT}"
            + " verify required ssl-min-ver TLSv1.3 no-tls-tickets\n"
            + f"  server app 127.0.0.1:{APP_PORT}\n",
        ),
        Contender(
            name="nginx",
            command=("nginx", "-c", "{}"),
            client=_nginx(
                files,
                "client",
                f"""listen 127.0.0.1:{OUTBOUND_PORT} backlog=8192;
                proxy_pass {server_addresses["nginx"]}:{TUNNEL_PORT};
                proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse off;
                proxy_ssl_verify on; proxy_ssl_name {NAME};
                proxy_ssl_trusted_certificate {files / ROOT};
                proxy_ssl_certificate {files / LEAF}; proxy_ssl_certificate_key {files / KEY};""",
            ),
            server=_nginx(
                files,
                "server",
                f"""listen {TUNNEL_PORT} ssl backlog=8192; proxy_pass 127.0.0.1:{APP_PORT};
                ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;
                ssl_verify_client on; ssl_client_certificate {files / ROOT};
                ssl_certificate {files / LEAF}; ssl_certificate_key {files / KEY};""",
            ),
        ),
        Contender(
            name="stunnel",
            command=("stunnel", "{}"),
            client=_stunnel(
                files,
                f"client = yes\naccept = 127.0.0.1:{OUTBOUND_PORT}\ncheckHost = {NAME}\n"
                f"connect = {server_addresses['stunnel']}:{TUNNEL_PORT}\n",
            ),
            server=_stunnel(
                files, f"accept = 0.0.0.0:{TUNNEL_PORT}\nconnect = 127.0.0.1:{APP_PORT}\n"
            ),
        ),
        *(
            Contender(
                name=name,
                command=(
                    str(find_envoy()),
                    *("--config-path", "{}", "--concurrency", "1", "--disable-hot-restart"),
                    *("--log-level", "error"),
                ),
                client=json.dumps(
                    envoys.client(files, server_addresses[name], shape=shape), indent=1
                ),
                server=json.dumps(envoys.server(files, APP_PORT, shape=shape), indent=1),
            )
            for name, shape in (("envoy-tcp", envoys.Shape.TCP), ("envoy-http", envoys.Shape.HTTP))
        ),
    ]


NAMES = ("haproxy", "nginx", "stunnel", "envoy-tcp", "envoy-http")

_HAPROXY_BASE = """\
global
  nbthread 1
  maxconn 8000
  tune.ssl.cachesize 0
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen hop
"""


def _nginx(files: Path, side: str, server: str) -> str:
    return f"""\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; worker_processes 1; pid {files}/{side}.pid; error_log stderr crit;
events {{ worker_connections 16384; }}
stream {{ server {{ {server} }} }}
"""


def _stunnel(files: Path, service: str) -> str:
    return f"""\
foreground = yes
pid =
debug = 2
[hop]
cert = {files / LEAF}
key = {files / KEY}
CAfile = {files / ROOT}
verifyChain = yes
requireCert = yes
sslVersion = TLSv1.3
sessionResume = no
{service}"""
