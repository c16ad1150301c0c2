"""One connection of a running mesh: made as the pod makes its own, traced, judged.

`diagnose` makes a `Connector` open the connection and trace a separate handshake; `judge` says what
became of it, where it stopped, why, and what to do. `findings` has the values that both sides
exchange, `report` the answer; `attempt`, `route` and `tracing` are the node agent's part.
"""
