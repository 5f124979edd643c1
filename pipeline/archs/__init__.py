"""Network architectures, one family a file; normalisation is their first layer."""
