"""Which model answers: the choice, and what was learnt of earlier ones."""
