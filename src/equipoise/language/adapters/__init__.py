"""Few trainable parameters around frozen linear layers."""
