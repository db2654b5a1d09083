"""What states say about concepts, through a bottleneck."""
