"""TriviaQA as a choice between two answers, for evaluation only."""
