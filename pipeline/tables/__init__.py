"""Rows, columns and published numbers of a table."""
