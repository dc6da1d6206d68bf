"""What a run leaves and how it ended: folders, results, history, one headless notebook, and one run as a page."""
