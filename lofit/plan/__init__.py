"""A configuration expanded to nodes: their ids and files, what each needs, and about what it takes."""
