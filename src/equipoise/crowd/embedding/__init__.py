"""Places for things from answers of the kind: a is nearer to b than to c."""
