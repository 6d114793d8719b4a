"""Read, cap, generate, fit and fetch traces of what happened to nodes."""
