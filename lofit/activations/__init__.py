"""Activations of contrastive texts, and the probes and directions estimated from them."""
