"""The paper's experiments: each has a configuration, data, a network, and a learner."""
