"""Compares two variants, or two recorded runs: did the fix work, or is the difference noise. It measures through the validations."""
