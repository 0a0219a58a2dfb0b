"""The fleet provisioner: sees workload, routing and pools, decides how many replicas are awake, and acts."""
