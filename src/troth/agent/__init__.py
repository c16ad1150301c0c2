"""One node: the capture of its pods, their certificates, and the agent that combines them."""
