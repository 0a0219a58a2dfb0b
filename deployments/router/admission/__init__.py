"""Who waits for an engine, and whose turn it is."""
