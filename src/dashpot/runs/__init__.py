"""Records, entries and studies, shared by training and comparison."""
