"""The life of one process: how a command starts, reports, stops and ends."""
