"""The routes that let a pod's app see who calls.

Envoy reaches the app from its client's own address, although that address is another pod's, and
sets `APP_MARK` on these sockets. The answers would leave the pod by its default route, so what
carries the mark is routed to loopback. By sysctl (`troth.agent.sysctls`) an answer carries the mark
of what it answers.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct

from troth.agent.netlink import attribute, change
from troth.errors import PeerError
from troth.mesh.ports import APP_MARK

TABLE = 15007
"""Of these routes. Low numbers are what others take, the CNI's source-based routing among them."""

_PRIORITY = 1000
"""Of the rule that leads to them: behind the table of local addresses, ahead of the main one."""

# linux/rtnetlink.h, linux/fib_rules.h
_RTM_NEWROUTE = 24
_RTM_NEWRULE = 32
_ROUTE = struct.Struct("=BBBBBBBBI")
_RULE = struct.Struct("=BBBBB2xBI")
_FR_ACT_TO_TBL = 1
_FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK = 6, 10, 15, 16
_RTA_OIF, _RTA_TABLE = 4, 15
_RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL = 4, 254, 2
_NLM_F_REPLACE, _NLM_F_EXCL, _NLM_F_CREATE = 0x100, 0x200, 0x400
_LOOPBACK = 1
"""Its index in every network namespace."""

_WITHOUT_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES})
"""How a kernel or a namespace says that it has no IPv6; such a pod has no IPv6 address either."""


def keep_inside() -> None:
    """Keep Envoy's connections to the app inside the calling thread's network namespace.

    Harmless when repeated.

    Raises:
        PeerError: The kernel refused the routes.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            _put(family)
        except OSError as error:
            if family is socket.AF_INET6 and error.errno in _WITHOUT_IPV6:
                return
            raise PeerError("the pod's network namespace", f"takes no routes: {error}") from error


def _put(family: socket.AddressFamily) -> None:
    table = attribute(_RTA_TABLE, _number(TABLE))
    # The route first: a rule without one would let the packets out.
    route = _ROUTE.pack(family, 0, 0, 0, 0, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL, 0)
    route += table + attribute(_RTA_OIF, _number(_LOOPBACK))
    change(socket.NETLINK_ROUTE, _RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, route)
    rule = _RULE.pack(family, 0, 0, 0, 0, _FR_ACT_TO_TBL, 0)
    rule += attribute(_FRA_TABLE, _number(TABLE))
    rule += attribute(_FRA_PRIORITY, _number(_PRIORITY))
    rule += attribute(_FRA_FWMARK, _number(APP_MARK))
    rule += attribute(_FRA_FWMASK, _number(0xFFFF_FFFF))
    with contextlib.suppress(FileExistsError):
        change(socket.NETLINK_ROUTE, _RTM_NEWRULE, _NLM_F_CREATE | _NLM_F_EXCL, rule)


def _number(value: int) -> bytes:
    return struct.pack("=I", value)
