"""BROJA: the partial information decomposition of a model's answers, by convex optimisation.

In come `Reads` (`BROJA`), log-posteriors under the conditions full, vision and language
(`posterior_pid`), or a known joint distribution (`discrete_pid`); out go redundancy, unique
information and synergy, with a certified interval, standard errors (influence functions),
cross-fitted and bootstrapped values and a permutation floor. `marginal_repair` makes the three
predictors' answer marginals agree first (raking, exponential tilting); `solver` has the convex
solvers. Nothing is trained.
"""
