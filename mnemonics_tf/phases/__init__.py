"""What happens in a phase of Algorithm 1."""
