"""Where the time of a pass goes on this machine, and how far that is from what its memory allows."""
