"""Long-tailed semantic segmentation: the AUC of pixels, a memory of rare classes, scores by groups of classes."""
