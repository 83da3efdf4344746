"""Training of the model's branches and of their fusion, from data sets on disk to weights a build takes."""
