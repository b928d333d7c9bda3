"""What benchmarks drive a target with, and what they compare it to."""
