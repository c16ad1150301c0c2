"""What happens on a node: capture of its pods, their certificates, and the agent over it all."""
