"""The training loop and what an average of its snapshots needs."""
