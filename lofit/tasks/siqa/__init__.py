"""Social IQa: choose the answer to a question about a social situation."""
