"""Every formula once: percentiles and their intervals, paired comparisons, scalability, change points."""
