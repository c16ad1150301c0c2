"""A course on a running mesh: lessons as data, and what the mesh makes of every answer.

`lesson` is the format, `course` reads and checks lessons, `classroom` puts answers into force and
sees what happens, `progress` remembers and scores. Nothing here is drawn: that is `cli.render`'s.
"""
