"""Concept bottlenecks: variational lower bounds of I(concepts; hidden state), layer by layer.

In come hidden states (`pid_lens.Reads` with ``states``, or an array) and a distribution over
concepts for each sample (a detector's scores, or one class index); out go `Curve`s of bits per
layer. A small network predicts the concepts from the hidden state; its held-out log-likelihood
less that of the mean concepts is the bound. With groups of questions it is computed given the
question, too, and the difference is the visual information gain.
"""
