"""From a folder of images and one of label maps to a network that labels pixels, and what its loss is worth."""
