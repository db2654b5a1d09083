"""BROJA: the partial information decomposition of a model's answers, by convex optimisation.

In come `Reads` (`BROJA`), log-posteriors under the conditions full, vision and language
(`posterior_pid`), or a known joint distribution (`discrete_pid`); out go redundancy, unique
information and synergy, with a certified interval, standard errors (influence functions),
cross-fitted and bootstrapped values and unique atoms' null level by permutation (``floor``).
`marginal_repair` makes the answer marginals under the three conditions agree first (raking,
exponential tilting); `solver` has the convex solvers. Nothing is trained.

Y is the model's own answer, distributed as it predicts over the options; no label is used. With
I = I(Y; X1, X2), I1 = I(Y; X1) (vision), I2 = I(Y; X2) (language) and the union information I_Q,
the least I(Y; X1, X2) of any joint with the marginals p(x1, y) and p(x2, y)::

    redundancy = I1 + I2 - I_Q      unique_vision   = I_Q - I2
    synergy    = I - I_Q            unique_language = I_Q - I1

As max(I1, I2) <= I_Q <= I1 + I2, redundancy and unique information are at least 0, less half the
certified gap; with a cross-fitted I_Q they may be negative. Synergy is at least 0 for a joint
distribution (`discrete_pid`), and may be negative for a model, whose answers to both sources need
not be a coupling of its answers to each. No atom is clipped.

``union`` is the middle of the certified interval; pointwise values average to its lower end.
"""
