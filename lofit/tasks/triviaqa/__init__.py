"""TriviaQA without documents, for evaluation only."""
