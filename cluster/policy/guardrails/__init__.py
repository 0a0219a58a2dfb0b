"""What the built-in guardrails look for, as functions of text."""
