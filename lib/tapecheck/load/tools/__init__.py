"""Files of other load generators, each read into our samples or figures as far as it carries them. Nothing is sent."""
