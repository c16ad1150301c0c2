"""What the `troth` command knows of a local mesh that runs: where it is and how to ask it.

It is apart from `troth.local`, which runs the mesh: a command that asks one question loads none of
what answers it.
"""
