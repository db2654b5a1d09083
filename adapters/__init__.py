"""What differs between frameworks, a file or folder each, imported as ``pid_lens.adapters.*``.

The rest of the package finds an adapter by the class of the model at hand (`pid_lens.model`,
`frameworks`) and loads it then, so that frameworks stay optional. `pid_lens.adapters.nnsight` and
`pid_lens.adapters.transformer_lens` are for users, too.
"""
