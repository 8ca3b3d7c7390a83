"""Building blocks for the declarations of methods, tasks, sources and configurations; light to import."""
