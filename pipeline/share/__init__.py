"""What a group remembers together: recorded, merged, pulled, guarded."""
