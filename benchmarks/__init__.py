"""What the served models are worth: measurements against a running Triton, through the client's package alone."""
