"""The studies, by name."""

from sparseout.studies import autoencoder, image, language
from sparseout.studies.glm import study as glm

STUDIES = {study.config.study: study for study in (autoencoder.STUDY, image.STUDY, language.STUDY, glm.STUDY)}
