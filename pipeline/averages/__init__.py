"""Averages of a trajectory's snapshots, one a file."""
