"""What is written down: a run's identity, the fields of each record, and JSON that is read strictly."""
