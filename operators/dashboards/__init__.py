"""Grafana dashboards, made from the catalogue of metrics, and the adapter that brings them into Grafana."""
