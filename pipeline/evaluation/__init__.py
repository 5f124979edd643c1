"""A victim under attack, image by image."""
