"""The closed form for Gaussian variables: covariances, samples, states."""
