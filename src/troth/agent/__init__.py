"""What happens on a node: its pods captured, their certificates, and the agent over it all."""
