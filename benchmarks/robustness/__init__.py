"""What happens to runs that are killed, and to arguments that make no sense."""
