"""One TLS 1.3 handshake as data: bytes in, steps out.

`trace_connection` makes a real connection, `HandshakeTrace` is the same without a socket, and
`build_report` tells what was recorded as steps.
"""
