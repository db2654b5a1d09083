"""Shared by all estimators: input arrays, entropy, clusters, folds, PCA, buffered reads.

In come tensors, sample ids or `Reads`; out go float64 tensors, cluster numbers, rows of each fold.
"""
