"""What costs time and memory, measured; nothing here is asserted."""
