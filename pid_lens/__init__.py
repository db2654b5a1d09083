"""pid_lens (its public names return when all parts are there)."""
