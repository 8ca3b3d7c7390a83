"""What the nodes of the workflow do, one module per kind."""
