import hypothesis

hypothesis.settings.register_profile("default", max_examples=20, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=100, deadline=None, derandomize=True)
hypothesis.settings.load_profile("default")
