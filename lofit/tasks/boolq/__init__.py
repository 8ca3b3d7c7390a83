"""BoolQ: is the answer to a question about a passage yes or no?"""
