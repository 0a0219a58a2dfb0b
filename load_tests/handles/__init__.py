"""The other way to build a gateway, to compare with: pipelines of Serve handles."""
