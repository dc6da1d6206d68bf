"""The market-data vendor: what its bars are, how its API says them, and how it is asked. What is stored is elsewhere."""
