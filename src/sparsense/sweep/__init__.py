"""Many runs of one recipe, kept in one store, and what they say about accuracy, detection and cost."""
