"""Users and items in one metric space: the nearer, the better liked."""
