"""A process that has imported the libraries and read the base model, and forks into the nodes of a workflow."""
