"""One connection of a running mesh: made, traced and judged.

`diagnose` has the mesh make the connection and trace a handshake beside it; `judge` says from
what was found what became of it, where it stopped, why, and what to do.
"""
