"""Whether an answer that was given before may be given again: identity, guards, evidence, eviction."""
