"""Building blocks in torch: devices, communicators, and the operators of a Mixture-of-Experts transformer."""
