"""Options: what a model may answer, as first tokens and as a whole."""
