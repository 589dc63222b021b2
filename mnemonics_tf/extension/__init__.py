"""What happens to a run after its last phase: further classes come, and may go again."""
