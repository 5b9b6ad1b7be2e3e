"""The studies that there are, by name."""

from sparseout.studies import autoencoder, image, language

STUDIES = {study.config.study: study for study in (autoencoder.STUDY, image.STUDY, language.STUDY)}
