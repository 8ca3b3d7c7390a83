# Nothing is to be run: what is there, what would it take, what has been found?
lofit --version
lofit --help
lofit init . --like laptop
lofit plan
lofit plan --task clutrr --method lofit
lofit expected
lofit store take "$REPOSITORY/docs/results/laptop/nodes"
lofit status
lofit run --help
