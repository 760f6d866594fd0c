"""Random views of images, signals and tables."""
