"""The data path: Ray Serve deployments from the HTTP ingress to the engines."""
