"""The paper's experiments: each is a configuration, a training loop, and records that anyone can read."""
