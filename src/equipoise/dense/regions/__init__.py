"""Objects of a mask: their frames, and what is measured or learned frame by frame."""
