"""The exact decomposition of answers: tables, posteriors, proofs, errors."""
