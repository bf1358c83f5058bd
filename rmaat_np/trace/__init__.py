"""One training step told event by event: as lines, as a picture, and as a page to step through."""
