"""Records on disk: a run's identity and fields, the summary of a probe, strict JSON, atomic writes and tables of text."""
