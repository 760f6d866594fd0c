"""Consistency of predictions under views of a sample: the loss and a step of training."""
