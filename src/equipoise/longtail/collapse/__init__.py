"""Neural collapse: frames, margins, measures."""
