"""Flows that make variables Gaussian, for the closed form to decompose."""
