"""Mutual information by held-out critics, and what the context contributes."""
