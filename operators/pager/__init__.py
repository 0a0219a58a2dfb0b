"""The coordinator of adapters: catalogue, placement and what nodes learn, over all nodes."""
