"""Attacks, one a file: settings in a dataclass, called with (model, images, labels, draws)."""
