"""What params.yaml says: read, checked, inherited, cut by the scale."""
