"""Accuracy of the served models on labelled data: `python -m benchmarks.accuracy`."""
