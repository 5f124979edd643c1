"""Training methods, one a file: only what makes each different from plain training."""
