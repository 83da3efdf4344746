"""What a user would do instead of fv2es, run side by side on the same films, utterances and weights."""
