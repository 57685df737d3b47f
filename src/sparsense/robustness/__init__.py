"""What a network or a detector is still worth when inputs are attacked, damaged or noisy."""
