"""Data sets, one a file: how raw files become arrays, and where they come from."""
