"""What a cluster or a machine lacks for troth: gathered here, judged apart, without any I/O."""
