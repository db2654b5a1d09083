"""BATCH: neural estimator of PID, couplings learned batch by batch; for published numbers.

Features of image and question (pooled hidden states) and posteriors under the conditions vision,
language and full come in, atoms layer by layer go out. Two networks embed the features; Sinkhorn
scaling projects exp(similarity) on the marginals p(y|x1) and p(y|x2), and Adam minimises the
information of that coupling about Y through the unrolled rounds. `batch_pid` takes samples,
`BATCH` the reads of a model. Use `BROJA` for anything new: it needs no training and certifies its
atoms.
"""
