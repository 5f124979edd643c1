"""One master on a cluster, what its jobs ask for, several trainings on one GPU."""
