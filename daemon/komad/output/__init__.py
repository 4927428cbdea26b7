"""What lands in the output directory, per movie and per session."""
