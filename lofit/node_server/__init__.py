"""Processes that have imported the libraries and read the base model, and fork into the nodes of a workflow."""
