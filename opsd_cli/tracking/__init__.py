"""Events of a run, the listeners that receive them, and the experiment trackers among these."""
