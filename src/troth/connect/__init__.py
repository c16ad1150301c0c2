"""One connection of a running mesh: made as the pod makes its own, traced, judged.

`diagnose` has a `Mesh` make the connection and trace a handshake beside it; `judge` says what
became of it, where it stopped, why, and what to do. `findings` has the values that who asks and who
answers share; `attempt`, `route`, `listening` and `tracing` are what a node agent finds out.
"""
