"""Diffusion once: noise schedules, what a denoiser predicts, and the way back, shared by diffusion and by bridges."""
