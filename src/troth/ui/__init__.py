"""`troth ui`: a page on this machine that shows a running mesh.

`graph` makes of an audit and of refusals what is to be seen, `layout` puts it in places, `server`
serves it with the files in ``static``, and `guard` decides which requests are answered at all.
"""
