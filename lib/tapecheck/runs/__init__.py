"""What a run leaves and how it ended: folders, results, history, the headless batch, and one run as a page."""
