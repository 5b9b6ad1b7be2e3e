"""Benchmarks of the op, training steps, targets, probes and fits, each compared with its usual alternative."""
