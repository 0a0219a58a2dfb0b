"""What the benchmarks of the semantic cache are made of: streams, policies of others, curves, entries."""
