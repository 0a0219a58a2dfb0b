"""The sentence encoder: texts to vectors, for embeddings, near matches and model routing.

A package of its own because several stages use it and none of them owns it.
"""
