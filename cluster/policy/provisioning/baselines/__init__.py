"""The rules that are in use elsewhere, in the same interface, faithful to their sources, for comparison."""
