"""Benchmarks of the op, training steps, targets, probes, fits and inference, each compared with its usual alternative."""
