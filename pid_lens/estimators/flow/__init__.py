"""PID after normalizing flows: samples or hidden states in, a Gaussian PID of their images out.

Each variable is reduced to principal components and mapped by an invertible normalizing flow
(independent axes, quantiles, rational-quadratic splines; maximum likelihood with held-out folds),
which leaves mutual information as it is; the closed form of `estimators.gaussian` decomposes the
result. `flow_pid` takes samples, `FlowPID` the pooled hidden states of a model, layer by layer.
Both report how Gaussian the variables are before and after.
"""
