"""Sequences of one's own: from arrays or files to a checked `Dataset`, with a codec that goes both ways."""
