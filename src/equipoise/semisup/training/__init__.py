"""Training with few labels: averages of weights, schedules, settings and the trainer."""
