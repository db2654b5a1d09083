"""Regions: the image tokens whose patches cover a part of the image."""
