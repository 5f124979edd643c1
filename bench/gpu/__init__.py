"""What a GPU does in ten minutes: see bench/gpu.sh."""
