"""A machine's name server: ``db.example`` is 192.0.2.9, and nothing else exists."""

from __future__ import annotations

import socket

import dns.message
import dns.name
import dns.rcode
import dns.rrset

DB = dns.name.from_text("db.example.")


def main() -> None:
    """Answer on UDP port 53 until ended."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 53))
        print("ready", flush=True)  # noqa: T201 - told to the test
        while True:
            wire, client = server.recvfrom(4096)
            query = dns.message.from_wire(wire)
            reply = dns.message.make_response(query)
            (question,) = query.question
            if question.name != DB:
                reply.set_rcode(dns.rcode.NXDOMAIN)
            elif question.rdtype == dns.rdatatype.A:
                reply.answer.append(dns.rrset.from_text(DB, 60, "IN", "A", "192.0.2.9"))
            server.sendto(reply.to_wire(), client)


if __name__ == "__main__":
    main()
