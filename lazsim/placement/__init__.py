"""Allocate replicas of experts, place them on nodes, and migrate from one plan to the next."""
