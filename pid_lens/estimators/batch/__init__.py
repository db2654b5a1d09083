"""BATCH, the neural estimator of published numbers."""
