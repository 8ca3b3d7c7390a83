"""What declarations of methods, tasks, sources and configurations are made of. Light to import."""
