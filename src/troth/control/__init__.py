"""How the `troth` command finds and queries a running local mesh.

It is separate from `troth.local`, which runs the mesh: a command that asks one question doesn't
load the modules that answer it.
"""
