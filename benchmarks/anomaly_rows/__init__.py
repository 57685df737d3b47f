"""The parts of `anomaly_training.py`: cases, methods that solve them, tables and pictures of what came out."""
