"""What families of estimators share: arrays, entropies, clusters, folds, principal components."""
