"""Prompts: chat template and tokenizer applied to questions; token positions of their parts."""
