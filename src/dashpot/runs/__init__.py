"""Records, entries and studies, used in both training and comparison."""
