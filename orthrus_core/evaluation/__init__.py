"""What decoding promises, measured: the same text as AR decoding, and how fast."""
