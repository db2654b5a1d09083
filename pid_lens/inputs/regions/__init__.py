"""Regions: which of an image's tokens see a part of it."""
