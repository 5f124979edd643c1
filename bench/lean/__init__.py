"""Training steps by hand, the plainest correct form, on the same nets: what ours are timed against.

Each takes a Job and makes one update. They hold what the entries of params.yaml say, no more, and
no part of pipeline/ but the nets and their values; a test makes both take the same step in float64.
"""
