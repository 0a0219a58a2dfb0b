"""The nouns: frozen dataclasses that observations and decisions are made of."""
