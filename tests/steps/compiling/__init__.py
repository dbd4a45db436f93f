"""What compile promises."""
