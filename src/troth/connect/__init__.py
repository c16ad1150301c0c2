"""One connection of a running mesh: made as the pod makes its own, traced, judged.

`diagnose` has a `Connector` make the connection and trace a handshake beside it; `judge` says what
became of it, where it stopped, why, and what to do. `findings` has the values that both ends of a
question share, `report` the answer; `attempt`, `route` and `tracing` are what a node agent does.
"""
