"""Prompts: images and questions as a model takes them, and where their parts stand."""
