"""Simulate MoE training on nodes that fail, and weigh placements of experts."""

__version__ = "0.1.0"
