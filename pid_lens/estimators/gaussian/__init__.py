"""Gaussian PID in closed form: covariances, samples or hidden states in, atoms out.

`gaussian_pid` decomposes a covariance matrix of (Y, X1, X2) by log-determinants and eigenvalues of
conditional covariances. `gaussian_pid_samples` estimates that of samples twice, by plug-in and by
cross-fitting, with an influence function for standard errors. `GaussianPID` does so for the pooled
hidden states of a model, layer by layer, and returns a `Spectrum`. Nothing is trained.
"""
