"""The machines that nodes run on: GPUs, jobs of SLURM, and the end of a workflow that was killed."""
