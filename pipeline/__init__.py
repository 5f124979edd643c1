"""Reference pipeline for adversarially robust model ensembles."""
