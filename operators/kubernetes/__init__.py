"""Kubernetes manifests from the configuration: pure functions, nothing here talks to a cluster."""
