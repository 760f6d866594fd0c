"""Binary and multiclass AUC, partial AUC and average precision: losses and metrics."""
