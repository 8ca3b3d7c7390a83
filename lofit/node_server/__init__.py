"""Server processes that have imported the libraries and loaded the base model, and fork to run the workflow's nodes."""
