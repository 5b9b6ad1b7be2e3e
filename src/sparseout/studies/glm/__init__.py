"""Generalized linear models: the study `glm`, and four experiments on the theorem."""
