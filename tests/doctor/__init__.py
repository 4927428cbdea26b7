"""What this computer lacks."""
