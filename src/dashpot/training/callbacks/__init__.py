"""Callbacks for the learner, one idea a file."""
