"""The convex problem behind union information: solvers with a certificate, primal and dual."""
