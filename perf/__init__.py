"""Speed and memory, each claim a script that measures ours and a naive baseline in turn and prints their ratio."""
