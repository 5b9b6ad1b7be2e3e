"""The command `sparseout probe`: measure the sparsity of a named model on data from files."""
