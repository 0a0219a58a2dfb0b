"""One request for tokens, from its signals to its last byte."""
