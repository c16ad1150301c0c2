"""How a running mesh is asked: on this machine by its control socket, in a cluster by reviews."""
