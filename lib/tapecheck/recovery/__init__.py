"""How fast a target recovers, and what is stale or lost: objectives, freshness, drills and loss."""
