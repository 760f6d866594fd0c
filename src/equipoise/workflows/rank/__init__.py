"""From comparisons to one ranking, everybody's own, and who should be looked at."""
