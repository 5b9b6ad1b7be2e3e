"""What noise costs: the op and whole training steps, timed beside what a person would use instead; and what a probe costs."""
