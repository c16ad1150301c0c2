"""What benchmarks run troth in: a real cluster of one node, and a big mesh for it to know."""
