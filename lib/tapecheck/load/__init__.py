"""Load validation: how much traffic a target carries, and what breaks first. Importing the package itself loads nothing."""
