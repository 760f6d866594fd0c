"""Training on Lightning: modules, objectives, checkpoints, resume."""
