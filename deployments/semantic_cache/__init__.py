"""The semantic-cache stage: answers kept for equal requests, and the encoder behind `/v1/embeddings`."""
