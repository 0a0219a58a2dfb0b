"""Guardrails around a request: what the model gets to read, and what the client gets."""
