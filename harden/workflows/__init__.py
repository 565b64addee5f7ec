"""What a command does end to end."""
