"""Float32 graphs to engines of another precision: converted, and admitted by what all four say about real utterances."""
