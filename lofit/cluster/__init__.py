"""The machines that nodes run on: GPUs, SLURM jobs, process setup, and ending nodes of a killed workflow."""
