"""Files that are whole or absent, and what must be known about them."""
