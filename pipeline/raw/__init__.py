"""Official files: fetched, unpacked, verified."""
