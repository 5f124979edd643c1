"""Commands that read what is there and write no result."""
