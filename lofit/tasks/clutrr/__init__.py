"""CLUTRR: infer the kinship of two people in a story."""
