"""What a run reports while it goes on, and the trackers that it is reported to."""
