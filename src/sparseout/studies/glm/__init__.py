"""The theorem seen in data: where stochastic training ends, how good the second order is, who is penalised, and what it buys."""
