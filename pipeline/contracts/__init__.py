"""What each kind of component must be: read this room first."""
