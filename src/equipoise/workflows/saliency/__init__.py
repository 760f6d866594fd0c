"""`equipoise evaluate --saliency`: a folder of saliency maps judged by a folder of masks."""
