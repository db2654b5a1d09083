"""InfoNCE: lower bounds of mutual information between hidden states, by contrastive critics.

In come hidden states (`pid_lens.Reads` with ``states``) or two arrays of paired samples; out go
`Curve`s of bits per layer, or one `MutualInformation`. Critics are trained on some folds of the
samples and evaluated on the held-out fold; the bound is at most the log of that fold's size.
`contextual` subtracts two such bounds; `from_samples` offers a Gaussian closed form and nearest
neighbours (KSG) as alternatives.
"""
