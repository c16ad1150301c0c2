"""One TLS 1.3 handshake as data: bytes in, steps out.

`trace_connection` makes a real connection, `HandshakeTrace` is the same without a socket,
`build_report` tells what it recorded as steps, and `render_report` shows them.
"""
