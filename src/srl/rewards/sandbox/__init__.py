"""Where code that a model wrote is run: behind walls, with limits, and nowhere else."""
