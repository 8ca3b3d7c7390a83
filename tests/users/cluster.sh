# What a cluster would get; tests/cluster submits to one.
lofit init . --like paper
lofit plan
lofit run -n --profile slurm
