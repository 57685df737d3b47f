"""The parts of `anomaly_training.py`: cases to solve, methods to solve them with, tables and pictures of what came out."""
