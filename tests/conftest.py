import hypothesis

hypothesis.settings.register_profile("sparseout", deadline=None, derandomize=True)
hypothesis.settings.load_profile("sparseout")
