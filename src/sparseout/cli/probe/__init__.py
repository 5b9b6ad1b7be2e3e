"""The command `sparseout probe`: a model by name, its data from files, and what a probe finds in it."""
