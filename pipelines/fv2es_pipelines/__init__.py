"""Media for FV2ES: encoded clips in; face pictures, pieces of spectrum and token ids out. Knows no server and no torch."""
