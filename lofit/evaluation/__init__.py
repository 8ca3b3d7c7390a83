"""Scoring fitted models with lm-evaluation-harness."""
