"""Red flags: signs that a number does not mean what it says."""
