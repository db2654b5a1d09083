"""What differs between frameworks: one file each, imported as ``pid_lens.adapters.*``."""
