"""What a cluster or a machine lacks for troth: gathering does the I/O, judging is pure."""
