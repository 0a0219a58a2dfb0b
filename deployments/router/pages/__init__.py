"""What is asked about the cluster rather than of a model."""
